"""Configuration options of the agent."""

from __future__ import annotations

import socket
import typing

from keystoneauth1 import loading
from oslo_config import cfg

DEFAULT_OPTS = [
    cfg.HostAddressOpt(
        'host',
        default=socket.gethostname(),
        sample_default='<name of this host>',
        help='Name of this host. It must be the one by which nova-compute on it is known '
        '(its own [DEFAULT] host), because servers are looked up by it.',
    ),
    cfg.StrOpt(
        'state_path',
        default='/var/lib/zun',
        help='Directory that the agent shares with nova-compute: the same as [zun_virt] '
        'state_path in nova.conf. The users of both services belong to its group.',
    ),
    cfg.FloatOpt(
        'lock_timeout',
        default=60,
        min=1,
        help='Seconds to wait for the lock of a sandbox that nova-compute is working on, '
        'before the work is put off and tried again.',
    ),
]

API_OPTS = [
    cfg.HostAddressOpt('bind_host', default='127.0.0.1', help='Address on which to listen.'),
    cfg.PortOpt('port', default=9517, help='Port on which to listen.'),
    cfg.IntOpt('threads', default=32, min=1, help='Requests that are served at one time.'),
    cfg.IntOpt('max_limit', default=1000, min=1, help='Most items in one page of a listing.'),
    cfg.URIOpt(
        'endpoint',
        schemes=['http', 'https'],
        help='URL at which the other agents reach this one. Derived from bind_host and port '
        'when it is not set.',
    ),
    cfg.StrOpt(
        'availability_zone',
        default='nova',
        help='Availability zone that GET /v1/services and /v1/hosts tell of this host.',
    ),
]

DOCKER_OPTS = [
    cfg.StrOpt(
        'url',
        default='unix:///var/run/docker.sock',
        help='Socket of the Docker Engine, the same that nova-compute uses.',
    ),
    cfg.FloatOpt('timeout', default=60, min=1, help='Seconds to wait for one answer of Docker.'),
    cfg.FloatOpt(
        'pull_timeout',
        default=60,
        min=1,
        help='Seconds without any progress after which the pull of an image is given up.',
    ),
    cfg.IntOpt('parallel_pulls', default=3, min=1, help='Images that are fetched at one time.'),
    cfg.IntOpt(
        'log_max_size',
        default=10,
        min=1,
        help="MiB in one file of a container's log, after which it is rotated.",
    ),
    cfg.IntOpt('log_max_files', default=3, min=1, help="Files kept of a container's log."),
    cfg.StrOpt(
        'runtime',
        help='OCI runtime for the containers, by the name the Docker Engine knows it by (runc, '
        'crun, runsc, kata). The default of the Docker Engine when it is not set.',
    ),
]

CONTAINER_OPTS = [
    cfg.FloatOpt('default_cpu', default=1.0, help='Cores that size a new sandbox by default.'),
    cfg.IntOpt('default_memory', default=512, help='MiB that size a new sandbox by default.'),
    cfg.ListOpt(
        'image_drivers',
        default=['docker', 'glance'],
        help='Image drivers that users may choose; the first is the default.',
    ),
    cfg.StrOpt(
        'default_image_pull_policy',
        default='ifnotpresent',
        choices=['always', 'ifnotpresent', 'never'],
        help='Whether the registry is asked when the image is on the host already.',
    ),
    cfg.IntOpt(
        'max_glance_image_size',
        default=10240,
        min=1,
        help='MiB that an image of Glance may have, packed and unpacked. It is written to the '
        'disk of the host before Docker has the image.',
    ),
    cfg.IntOpt(
        'default_stop_timeout',
        default=10,
        min=0,
        help='Seconds between the stop signal and the kill, where the request does not tell.',
    ),
]

SANDBOX_OPTS = [
    cfg.StrOpt(
        'image',
        default='kubernetes/pause',
        help='Name or id of the Glance image of which sandboxes are made.',
    ),
    cfg.StrOpt(
        'trait',
        default='CUSTOM_ZUN_SANDBOX',
        help='Trait that a flavor for sandboxes requires in its extra specs.',
    ),
    cfg.IntOpt(
        'nova_cache_seconds',
        default=10,
        min=0,
        help="Seconds for which Nova's answer to a user's question about the flavors, the "
        'sandbox image, or a server by its name or on another host is believed.',
    ),
    cfg.IntOpt(
        'server_cache_seconds',
        default=60,
        min=0,
        help="Seconds for which Nova's answer to a user's question about a sandbox of this "
        'host, named by its id, is believed, and so the most that a lock of the server may take '
        'to keep new containers out. That it stopped or was deleted is known at once.',
    ),
    cfg.FloatOpt('nova_timeout', default=60, min=1, help='Seconds to wait for Nova to answer.'),
    cfg.IntOpt(
        'intent_timeout',
        default=300,
        min=30,
        help='Seconds after which a sandbox that Nova was asked for without an answer is swept.',
    ),
]

RECONCILER_OPTS = [
    cfg.IntOpt(
        'workers',
        default=0,
        min=0,
        help='Containers that are worked on at one time; 0 stands for eight times the processors, '
        'which keeps Docker busy.',
    ),
    cfg.FloatOpt(
        'full_pass_interval',
        default=60,
        min=1,
        help='Seconds between two comparisons of everything on this host with the store.',
    ),
    cfg.FloatOpt('report_interval', default=10, min=1, help='Seconds between two signs of life.'),
    cfg.FloatOpt(
        'service_down_time',
        default=60,
        min=1,
        help='Seconds without a sign of life after which an agent counts as down.',
    ),
]

DATABASE_OPTS = [
    cfg.StrOpt(
        'connection',
        secret=True,
        help='SQLAlchemy URL of the store. A SQLite file below state_path when it is not set; '
        'with more than one host, a MariaDB or PostgreSQL that all agents share.',
    ),
    cfg.IntOpt(
        'keep_actions',
        default=30,
        min=1,
        max=36500,
        help='Days for which the actions on a container are kept once it has gone. Where Docker '
        'still has it, on a host that was away, an agent knows by them that it was deleted; after '
        'that time it leaves such a container alone.',
    ),
]

NOVA_OPTS = [
    cfg.StrOpt('region_name', help='Region whose endpoints are used.'),
    cfg.StrOpt(
        'interface',
        default='internal',
        choices=['internal', 'public', 'admin'],
        help="Which of the other services' endpoints are used.",
    ),
]

KEYSTONE_AUTH_GROUP = 'keystone_auth'
"""Group with the agent's own credentials, as keystoneauth loads them."""

GROUPS: dict[str | None, list[typing.Any]] = {
    None: DEFAULT_OPTS,
    'api': API_OPTS,
    'docker': DOCKER_OPTS,
    'container': CONTAINER_OPTS,
    'sandbox': SANDBOX_OPTS,
    'reconciler': RECONCILER_OPTS,
    'database': DATABASE_OPTS,
    'openstack': NOVA_OPTS,
}


def register(conf: cfg.ConfigOpts) -> None:
    """Register every option of the agent with `conf`."""
    for group, options in GROUPS.items():
        conf.register_opts(options, group=group)
    loading.register_auth_conf_options(conf, KEYSTONE_AUTH_GROUP)
    loading.register_session_conf_options(conf, KEYSTONE_AUTH_GROUP)


def connection(conf: cfg.ConfigOpts) -> str:
    """Return the SQLAlchemy URL of the store."""
    return conf.database.connection or f'sqlite:///{conf.state_path}/zun-agent.sqlite'


def endpoint(conf: cfg.ConfigOpts) -> str:
    """Return the URL at which the other agents reach this one."""
    if conf.api.endpoint:
        return str(conf.api.endpoint)
    everywhere = conf.api.bind_host in ('0.0.0.0', '::')  # noqa: S104  only compared with
    name = conf.host if everywhere else conf.api.bind_host
    return f'http://{f"[{name}]" if ":" in name else name}:{conf.api.port}'


def list_opts() -> list[tuple[str, list[typing.Any]]]:
    """Return all options, for ``oslo-config-generator``.

    keystonemiddleware names those of its own, but not the credentials that it needs.
    """
    auth = loading.get_auth_common_conf_options() + loading.get_session_conf_options()
    password = loading.get_auth_plugin_conf_options('password')
    return [
        *((group or 'DEFAULT', options) for group, options in GROUPS.items()),
        (KEYSTONE_AUTH_GROUP, [*auth, *password]),
        ('keystone_authtoken', password),
    ]
