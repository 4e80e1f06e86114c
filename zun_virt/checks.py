"""What of a host bounds or endangers sandboxes, and what its operator can change about it.

nova-compute logs some of it when it starts; ``zun-virt-status upgrade check`` shows all.
"""

from __future__ import annotations

import contextlib
import enum
import grp
import json
import os
import pathlib
import pwd
import socket
import stat
import typing
from collections.abc import Iterator

import nova.conf
from oslo_log import log as logging

from zun_virt import cores, host, resources

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

MINIMUM_ENGINE = 20_010_000
_CONTROLLERS = ('cpu', 'cpuset', 'memory', 'pids')
_STOP_SECONDS = 15
"""What Docker gives containers when it is itself told to end, unless daemon.json says more."""

_GROUP_MODE = stat.S_ISGID | stat.S_IRWXU | stat.S_IRWXG


class Level(enum.IntEnum):
    """How much it matters."""

    FINE = 0
    WARNING = 1
    FAILURE = 2


class Finding(typing.NamedTuple):
    """One thing looked at.

    :ivar text: what was found, and what to change where that is not fine
    """

    level: Level
    text: str


def at_start(facts: host.Facts) -> resources.Defaults:
    """Look at a host on which nova-compute starts, log what matters, and settle its defaults.

    :raises nova.exception.InvalidConfiguration: the options of cores cannot hold
    """
    for finding in of_engine(facts):
        if finding.level is not Level.FINE:
            LOG.warning('%s', finding.text)
    check_cores(facts)
    return resources.Defaults(
        pids=CONF.zun_virt.pids_limit,
        disk=resources.disk_of(facts.data_root) if facts.cgroup_version == 2 else None,
        disk_quota=no_disk_quota(facts) is None,
    )


def check_cores(facts: host.Facts) -> None:
    """Refuse options of cores that cannot hold.

    :raises nova.exception.InvalidConfiguration: naming the option
    """
    cores.check(
        cores.nodes(facts.memory_mb),
        CONF.reserved_host_cpus,
        cpusets=facts.cgroup_version == 2 or facts.cgroup_driver != 'systemd',
    )


def of_engine(facts: host.Facts) -> list[Finding]:
    """Return what follows from Docker's own account of itself."""
    return [engine(facts), live_restore(facts), storage(facts), swap(facts), disk_io(facts)]


def engine(facts: host.Facts) -> Finding:
    """Judge Docker's version."""
    version = f'Docker Engine {facts.version_text}'
    if facts.version < MINIMUM_ENGINE:
        return Finding(Level.FAILURE, f'{version} is too old: install 20.10 or later on this host')
    return Finding(Level.FINE, version)


def live_restore(facts: host.Facts) -> Finding:
    """Judge what a restart of Docker does to containers."""
    if facts.live_restore:
        return Finding(Level.FINE, 'live-restore is on: containers outlive a restart of Docker')
    return Finding(
        Level.WARNING,
        'live-restore is off: a restart of the engine will stop every sandbox. Set '
        '"live-restore": true in its daemon.json',
    )


def storage(facts: host.Facts, mountinfo: str | None = None) -> Finding:
    """Judge whether what containers write can be bounded.

    :param mountinfo: as the kernel tells it; None for this process's own
    """
    reason = no_disk_quota(facts, mountinfo)
    if reason is None:
        return Finding(
            Level.FINE,
            f'{facts.storage_driver}: what each container writes outside of volumes is bounded '
            'by the size of its disk',
        )
    return Finding(
        Level.WARNING,
        f'What containers write outside of volumes is not bounded by the size of their disk: '
        f'{reason}. One container can fill {facts.data_root} for all. Keep it on xfs, mounted '
        'with the option pquota, with the storage driver overlay2',
    )


def no_disk_quota(facts: host.Facts, mountinfo: str | None = None) -> str | None:
    """Return why a container's writable layer cannot be bounded here, None if it can."""
    if facts.storage_driver in ('btrfs', 'zfs'):
        return None
    if facts.storage_driver != 'overlay2':
        return f"Docker's storage driver is {facts.storage_driver}"
    if facts.backing != 'xfs':
        return f'{facts.data_root} is on {facts.backing}, which has no quota that overlay2 can use'
    if not {'prjquota', 'pquota'} & _mount_options(facts.data_root, mountinfo):
        return f'the xfs at {facts.data_root} is mounted without the option pquota'
    return None


def _mount_options(path: str, mountinfo: str | None) -> set[str]:
    """Return the options of the file system that holds a path."""
    if mountinfo is None:
        mountinfo = pathlib.Path('/proc/self/mountinfo').read_text()
    place, options = '', set()
    for line in mountinfo.splitlines():
        front, _, back = line.partition(' - ')
        mounted = front.split(' ')[4]
        inside = path == mounted or path.startswith(f'{mounted.rstrip("/")}/')
        if inside and len(mounted) >= len(place):
            place, options = mounted, set(back.split(' ')[-1].split(','))
    return options


def swap(facts: host.Facts) -> Finding:
    """Judge whether memory can be bounded."""
    if facts.swap_limit:
        return Finding(Level.FINE, 'a sandbox uses no swap beyond its memory')
    return Finding(
        Level.WARNING,
        'The kernel does not limit swap: a sandbox may use more than its memory. Boot with '
        'swapaccount=1, or without swap',
    )


def disk_io(facts: host.Facts) -> Finding:
    """Judge whether block I/O can be bounded."""
    if facts.cgroup_version != 2:
        return Finding(
            Level.WARNING,
            'Extra specs quota:disk_* have no effect: cgroup v1 bounds no block I/O for the sum '
            "of a sandbox's containers. Boot with cgroup v2 where that is needed",
        )
    if resources.disk_of(facts.data_root) is None:
        return Finding(
            Level.WARNING,
            f'Extra specs quota:disk_* have no effect: {facts.data_root} is on no disk whose I/O '
            'the kernel could bound',
        )
    return Finding(Level.FINE, 'extra specs quota:disk_* bound block I/O')


def controllers(facts: host.Facts, root: str) -> Finding:
    """Judge the cgroup controllers.

    :param root: where they are mounted
    """
    base = pathlib.Path(root)
    if facts.cgroup_version == 2:
        listing = base / 'cgroup.controllers'
        found = set(listing.read_text().split()) if listing.is_file() else set()
    else:
        found = {name for entry in base.glob('*') for name in entry.name.split(',')}
    missing = [name for name in _CONTROLLERS if name not in found]
    kind = f'cgroup v{facts.cgroup_version}, driver {facts.cgroup_driver}'
    if missing:
        return Finding(
            Level.FAILURE,
            f'{kind}: {root} has no controllers {", ".join(missing)}. Mount them, set '
            '[zun_virt] cgroup_root to where they are, or boot with cgroup_enable=memory',
        )
    return Finding(Level.FINE, kind)


def timeouts(facts: host.Facts) -> Finding:
    """Judge how long things may take, by nova-compute's configuration."""
    wrong = list(_timeouts(facts))
    if wrong:
        return Finding(Level.WARNING, '; '.join(wrong))
    return Finding(
        Level.FINE,
        f'vif_plugging_timeout {CONF.vif_plugging_timeout} s, shutdown_timeout '
        f'{CONF.shutdown_timeout} s, [zun_virt] docker_timeout {CONF.zun_virt.docker_timeout} s',
    )


def _timeouts(facts: host.Facts) -> Iterator[str]:
    if not CONF.vif_plugging_timeout or not CONF.vif_plugging_is_fatal:
        yield (
            'a sandbox becomes ACTIVE before Neutron has wired it: set vif_plugging_timeout to '
            'some minutes, and vif_plugging_is_fatal = true'
        )
    if not CONF.glance.timeout:
        yield 'a Glance that hangs holds up a build for ever: set [glance] timeout = 60'
    if not facts.live_restore and CONF.shutdown_timeout > _STOP_SECONDS:
        yield (
            f'Docker gives containers {_STOP_SECONDS} s to end when it is itself told to, and nova '
            f'{CONF.shutdown_timeout}: turn live-restore on, or set "shutdown-timeout": '
            f'{CONF.shutdown_timeout} in daemon.json'
        )


def open_vswitch(connection: str, seconds: float = 5) -> Finding:
    """Judge whether the switch's database answers.

    :param connection: as ``[os_vif_ovs] ovsdb_connection``
    :param seconds: to wait for it
    """
    kind, _, where = connection.partition(':')
    if kind not in ('tcp', 'unix'):
        return Finding(Level.WARNING, f'{connection} is not looked at: only tcp: and unix: are')
    try:
        with _connected(kind, where, seconds) as stream:
            stream.sendall(b'{"method": "list_dbs", "params": [], "id": 0}')
            found = json.loads(stream.recv(65536))['result']
    except (OSError, ValueError, KeyError) as error:
        return Finding(
            Level.FAILURE,
            f"Open vSwitch's database does not answer at {connection}: {error}. Set [os_vif_ovs] "
            'ovsdb_connection to where it listens, or run: ovs-vsctl set-manager '
            'ptcp:6640:127.0.0.1',
        )
    if 'Open_vSwitch' not in found:
        return Finding(Level.FAILURE, f'{connection} is no database of Open vSwitch: {found}')
    return Finding(Level.FINE, f'Open vSwitch answers at {connection}')


@contextlib.contextmanager
def _connected(kind: str, where: str, seconds: float) -> Iterator[socket.socket]:
    if kind == 'tcp':
        address, _, port = where.rpartition(':')
        with socket.create_connection((address.strip('[]'), int(port)), seconds) as stream:
            yield stream
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(seconds)
        stream.connect(where)
        yield stream


def state_directory(path: str) -> Finding:
    """Judge the directory that nova-compute and the agent share.

    :param path: ``[zun_virt] state_path``
    """
    advice = f"As root: install -d -o <nova-compute's user> -g zun -m 2775 {path}"
    try:
        found = pathlib.Path(path).stat()
    except OSError as error:
        return Finding(Level.FAILURE, f'{path}: {error.strerror}. {advice}')
    mode = stat.S_IMODE(found.st_mode)
    shown = f'{path} is {_user(found.st_uid)}:{_group(found.st_gid)} {mode:04o}'
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(Level.FAILURE, f'{shown}, and not writable for this user. {advice}')
    if mode & _GROUP_MODE != _GROUP_MODE:
        return Finding(
            Level.FAILURE,
            f"{shown}: without the set-group-id bit and the group's right to write, the agent "
            f'cannot use what nova-compute writes. {advice}',
        )
    if mode & stat.S_IWOTH:
        return Finding(Level.FAILURE, f'{shown}: anybody may write there. {advice}')
    return Finding(Level.FINE, shown)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
