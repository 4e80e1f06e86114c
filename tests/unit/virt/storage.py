"""Volumes in memory: what Cinder exports, what os-brick connects, what the kernel mounts.

They are known by their ids, which are the names of their files.
"""

import collections
import errno
import pathlib

from os_brick import exception

from zun_virt import counters

SHARE = pathlib.Path('/share')


class Content:
    """What is on a volume.

    :ivar kind: blkid's word for it
    :ivar size: GiB; that of the file system is `file_system_size`
    """

    def __init__(self, kind='', blank=None, size=1):
        self.kind = kind
        self.blank = not kind if blank is None else blank
        self.size = self.file_system_size = size
        self.made = 0


class FakeStorage:
    """The volumes, behind `os_brick` and `zun_virt.privsep.filesystems`."""

    KERNEL = (
        'share',
        'sweep',
        'connect',
        'disconnect',
        'probe',
        'make',
        'mount',
        'unmount',
        'grow',
        'mounted',
        'kind_of',
    )

    def __init__(self):
        self.contents = collections.defaultdict(Content)
        self.connected = set()
        self.loops = {}
        self.mounts = {}
        self.busy = set()
        self.counted = {}
        """By loop device, what was ever read and written of all that it served."""
        self.shared = False
        self._failures = collections.defaultdict(list)

    def fail(self, call, error):
        """Let the next call of this name raise the error."""
        self._failures[call].append(error)

    def at(self, directory):
        """Return the ids of the volumes that are mounted in a directory."""
        return {
            pathlib.Path(target).name for target in self.mounts if target.startswith(str(directory))
        }

    # os-brick

    @staticmethod
    def properties(root_helper, address, multipath, enforce_multipath, host):
        return {'ip': address, 'host': host, 'initiator': 'iqn.x', 'multipath': multipath}

    def factory(self, protocol, root_helper, conn, **_options):
        return _Connector(self, conn['serial'])

    # the kernel

    def share(self):
        self._call('share')
        self.shared = True

    def sweep(self):
        used = {device for device, *_ in self.mounts.values()}
        self.loops = {name: loop for name, loop in self.loops.items() if name in used}

    def connect(self, source, read_only):
        self._call('connect')
        assert pathlib.Path(source).name in self.connected
        for device, (file, _) in self.loops.items():
            if file == source:
                return device
        device = next(f'/dev/loop{n}' for n in range(99) if f'/dev/loop{n}' not in self.loops)
        self.loops[device] = (source, read_only)
        return device

    def disconnect(self, source):
        self._call('disconnect')
        used = {device for device, *_ in self.mounts.values()}
        for device in [name for name, (file, _) in self.loops.items() if file == source]:
            if device not in used:
                del self.loops[device]

    def content(self, device):
        return self.contents[pathlib.Path(self.loops[device][0]).name]

    def probe(self, device):
        self._call('probe')
        return (self.content(device).kind, self.content(device).blank)

    def make(self, device, kind):
        self._call('make')
        content = self.content(device)
        assert content.blank, 'it would be lost'
        content.kind, content.blank, content.made = kind, False, content.made + 1

    def mount(self, device, target, kind, read_only):
        self._call('mount')
        assert self.shared
        assert pathlib.Path(target).is_dir()
        assert self.content(device).kind == kind
        assert self.loops[device][1] == read_only
        self.content(device).file_system_size = self.content(device).size
        self.mounts[target] = (device, kind, read_only)

    def unmount(self, target):
        self._call('unmount')
        if target not in self.mounts:
            return
        if pathlib.Path(target).name in self.busy:
            raise OSError(errno.EBUSY, 'Device or resource busy')
        device, _, _ = self.mounts.pop(target)
        self.loops.pop(device)

    def grow(self, target):
        self._call('grow')
        content = self.content(self.mounts[target][0])
        content.file_system_size = content.size
        return content.size << 30

    def mounted(self, directory):
        return {
            pathlib.Path(target).name: device
            for target, (device, _, _) in self.mounts.items()
            if pathlib.Path(target).parent == directory
        }

    def kind_of(self, target):
        return self.mounts[str(target)][1]

    def counts(self, device):
        """Return what `zun_virt.counters.of_device` does."""
        return counters.Counts(*self.counted.get(device, (9, 9 << 9, 9, 9 << 9)))

    def use(self, volume_id, *counts):
        """Read and write a mounted volume."""
        (device,) = [
            device
            for target, (device, _, _) in self.mounts.items()
            if pathlib.Path(target).name == volume_id
        ]
        before = self.counts(device)
        self.counted[device] = [old + new for old, new in zip(before, counts, strict=True)]

    def _call(self, name):
        if self._failures[name]:
            raise self._failures[name].pop(0)


class _Connector:
    def __init__(self, storage, volume_id):
        self._storage, self._id = storage, volume_id

    def connect_volume(self, data):
        self._storage._call('connect_volume')
        self._storage.connected.add(self._id)
        return {'path': str(SHARE / self._id)}

    def get_volume_paths(self, data):
        return [str(SHARE / self._id)]

    def disconnect_volume(self, data, device_info):
        self._storage._call('disconnect_volume')
        if self._id in {pathlib.Path(target).name for target in self._storage.mounts}:
            raise exception.BrickException('it is mounted')
        self._storage.connected.discard(self._id)

    def extend_volume(self, data):
        raise NotImplementedError


def mapping(volume_id, device='/dev/vdb', guest_format=None, **data):
    """Return an entry of nova's block device mapping."""
    return {
        'connection_info': connection(volume_id, **data),
        'mount_device': device,
        'guest_format': guest_format,
    }


def connection(volume_id, **data):
    """Return what Cinder says of the way to a volume."""
    return {
        'driver_volume_type': 'nfs',
        'serial': volume_id,
        'data': {'export': '127.0.0.1:/share', 'name': f'volume-{volume_id}'} | data,
    }
