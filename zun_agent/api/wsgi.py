"""The API for any WSGI server: ``module = zun_agent.api.wsgi:application``.

It is only a front end: what it accepts is carried out by the ``zun-agent`` of the host
that has the container, to which it hands on what cannot wait. Its configuration is
``/etc/zun/zun-agent.conf``, or the file that ``ZUN_AGENT_CONFIG_FILE`` names.
"""

from __future__ import annotations

import os
import threading
import typing

from zun_agent import cmd, conf, images
from zun_agent.api import app
from zun_agent.manager import Manager
from zun_agent.openstack import OpenStack
from zun_agent.runtime import Runtime
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_virt.sandbox import SandboxStore

if typing.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def front_end() -> WSGIApplication:
    """Return the API on the configured store, which is waited for and brought up to date.

    No connection to it is open afterwards, for two processes could have it that the server forks.
    """
    named = os.environ.get('ZUN_AGENT_CONFIG_FILE')
    options = cmd.configure(['--config-file', named] if named else [])
    cmd.open_store(conf.connection(options), threading.Event())
    store = Store(conf.connection(options))
    cloud = OpenStack(options)
    sandboxes = Sandboxes(options, SandboxStore(options.state_path), cloud)
    # Of the runtime only the container's own host makes use.
    runtime = Runtime(options.docker.url, options.docker.timeout, options.docker.pull_timeout)
    manager = Manager(options, store, runtime, sandboxes, images.load(options, runtime, cloud))
    return app.build(options, manager, reconciles=False)


# Servers look for it in the module as it is, not by asking for an attribute.
application = front_end()
