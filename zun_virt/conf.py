"""Options of the driver, in the group ``[zun_virt]`` of ``nova.conf``."""

from __future__ import annotations

from oslo_config import cfg

GROUP = cfg.OptGroup('zun_virt', title='Sandboxes made by zun_virt.ZunDriver')

OPTIONS = [
    cfg.StrOpt(
        'state_path',
        default='/var/lib/zun',
        help='Directory that holds the sandbox directories. The agent must be able to write '
        'here: a group to which both users belong, with the set-group-id bit.',
    ),
    cfg.StrOpt(
        'docker_url',
        default='unix:///var/run/docker.sock',
        help='Where the Docker Engine listens.',
    ),
    cfg.IntOpt(
        'docker_timeout',
        default=60,
        min=1,
        help='Seconds to wait for an answer of the Docker Engine.',
    ),
    cfg.StrOpt(
        'sandbox_image',
        help='Docker name of the image that every sandbox runs, pulled when missing. Unset, it '
        "is the server's own image, taken from Glance.",
    ),
    cfg.IntOpt(
        'pids_limit',
        default=4096,
        min=16,
        help='Processes and threads that the containers of one sandbox may have together, where '
        "the flavor's extra spec zun:pids_limit does not say otherwise.",
    ),
    cfg.IntOpt(
        'max_parallel_starts',
        default=0,
        min=0,
        help='Sandboxes that Docker creates or starts at a time; more only make each slower. '
        '0 means twice the number of cores.',
    ),
    cfg.IntOpt(
        'lock_timeout',
        default=60,
        min=1,
        help='Seconds to wait while the agent starts a container in a sandbox that is to be '
        'changed.',
    ),
    cfg.IntOpt(
        'vif_replug_timeout',
        default=10,
        min=0,
        help='Seconds to wait, when a sandbox is started again, for Neutron to call a port active '
        'that it has called so all the time. The Open vSwitch agent does within some seconds; 0 '
        'is for a back end that does not.',
    ),
    cfg.IntOpt(
        'port_sync_interval',
        default=20,
        min=0,
        help='Seconds between two looks at what Neutron says of the ports of all sandboxes on '
        'this host, so that running ones follow: fixed addresses, names, subnets, deleted ports. '
        '0 means never; a sandbox then follows at its next start.',
    ),
    cfg.IntOpt(
        'recovery_interval',
        default=60,
        min=0,
        help='Seconds between two passes that compare sandboxes with what Nova says of them, '
        'start again those that were killed, and look for orphans. 0 for no passes; what Docker '
        'tells of is still acted on.',
    ),
    cfg.IntOpt(
        'orphan_grace',
        default=600,
        min=0,
        help='Seconds for which a sandbox must have belonged to no server of this host before it '
        'is removed.',
    ),
    cfg.BoolOpt(
        'orphan_dry_run',
        default=False,
        help='Only log the sandboxes that belong to no server of this host, and remove none.',
    ),
    cfg.IntOpt(
        'max_snapshot_size',
        default=20,
        min=2,
        help='GiB that a snapshot of a sandbox may have when it is unpacked to make the sandbox '
        'again. It needs twice that below state_path meanwhile.',
    ),
    cfg.StrOpt(
        'nfs_mount_point_base',
        default='$state_path/nfs',
        help='Directory below which the shares of volumes are mounted that are files, as with '
        "Cinder's NFS driver. No file outside of it is ever mounted as a volume.",
    ),
    cfg.StrOpt(
        'default_file_system',
        default='ext4',
        choices=['ext4', 'xfs'],
        help='File system that is made on a blank volume whose property zun:file_system does '
        'not say otherwise.',
    ),
    cfg.StrOpt(
        'cgroup_root',
        default='/sys/fs/cgroup',
        help='Where the cgroup file systems are mounted.',
    ),
]


def register(conf: cfg.ConfigOpts) -> None:
    """Add the options to `conf`."""
    conf.register_group(GROUP)
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Return the options for oslo-config-generator."""
    return [(GROUP, OPTIONS)]
