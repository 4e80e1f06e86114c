"""The API for any WSGI server: ``module = zun_agent.api.wsgi:application``.

It is only a front end: what it accepts is carried out by the ``zun-agent`` of the host
that has the container, to which it hands on what cannot wait. Its configuration is
``/etc/zun/zun-agent.conf``, or the file that ``ZUN_AGENT_CONFIG_FILE`` names.
"""

from __future__ import annotations

import os
import typing

from zun_agent import cmd, conf, images, manager, openstack, runtime, sandboxes, store
from zun_agent.api import app
from zun_virt.sandbox import SandboxStore

if typing.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def front_end() -> WSGIApplication:
    """Return the API on the configured store, which is brought up to date."""
    named = os.environ.get('ZUN_AGENT_CONFIG_FILE')
    options = cmd.configure(['--config-file', named] if named else [])
    records = store.Store(conf.connection(options))
    records.migrate()
    cloud = openstack.OpenStack(options)
    nova = sandboxes.Sandboxes(options, SandboxStore(options.state_path), cloud)
    docker = runtime.Runtime(
        options.docker.url, options.docker.timeout, options.docker.pull_timeout
    )
    drivers = images.load(options, docker, cloud)
    made = manager.Manager(options, records, docker, nova, drivers)
    return app.build(options, made, reconciles=False)


def __getattr__(name: str) -> typing.Any:
    """Make `application` when a server asks for it, not when a tool imports the module."""
    if name != 'application':
        raise AttributeError(name)
    globals()['application'] = application = front_end()
    return application
