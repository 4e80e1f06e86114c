"""Volumes that grow; needs root and loop devices, and is skipped without."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import uuid

import pytest
from oslo_privsep import priv_context

from tests.unit.virt import storage
from tests.unit.virt.on_loops import (
    NEEDED,
    SIZE,
    blank,
    extended,
    place_of_a_volume,
    room,
    run,
)
from zun_virt import privsep, sandbox, volume
from zun_virt.privsep import filesystems

pytestmark = NEEDED

# The bit that stands for the capability; not every virtual machine gives it to root.
CAP_SYS_RESOURCE = 24
GROWS_EXT4 = any(
    int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1
    for line in pathlib.Path('/proc/self/status').read_text().splitlines()
    if line.startswith('CapBnd:')
)
KINDS_THAT_GROW = [
    pytest.param(
        'ext4',
        marks=pytest.mark.skipif(
            not GROWS_EXT4, reason='to grow ext4 while it is mounted takes CAP_SYS_RESOURCE'
        ),
    ),
    'xfs',
]
WRITES = """
import os, select, sys
done = 0
with open(sys.argv[1], 'wb', buffering=0) as file:
    while not select.select([sys.stdin], [], [], 0)[0]:
        file.write(done.to_bytes(8, 'big') * 512)
        os.fsync(file.fileno())
        done += 1
        if done == 1:
            print(flush=True)
print(done)
"""


@pytest.fixture
def place(tmp_path):
    """The place of a volume, in a state directory."""
    with place_of_a_volume(tmp_path) as found:
        yield found


@pytest.fixture
def file(place):
    return blank(place)


@contextlib.contextmanager
def written(place):
    """Have a process write to a volume meanwhile, and find all of it there."""
    command = [sys.executable, '-c', WRITES, str(place / 'written')]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        said, _ = process.communicate(b'.', timeout=60)
    assert process.returncode == 0
    found = (place / 'written').read_bytes()
    assert found == b''.join(number.to_bytes(8, 'big') * 512 for number in range(int(said)))


def assert_larger(place, before):
    """It has the room of twice the size, and gives it."""
    assert room(place) > before + SIZE * 0.8
    with open(place / 'large', 'wb') as stream:
        os.posix_fallocate(stream.fileno(), 0, int(SIZE * 1.5))


@pytest.mark.parametrize('kind', KINDS_THAT_GROW)
def test_growing_while_in_use(place, file, kind):
    device = filesystems.connect(str(file), False)
    filesystems.make(device, kind)
    filesystems.mount(device, str(place), kind, False)
    before = room(place)
    with written(place):
        extended(file)
        assert filesystems.grow(str(place)) == 2 * SIZE
        assert_larger(place, before)


@pytest.mark.skipif(GROWS_EXT4, reason='the kernel lets root grow ext4 while it is mounted')
def test_ext4_stays_as_it_is_where_it_cannot_grow(place, file):
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'ext4')
    filesystems.mount(device, str(place), 'ext4', False)
    before = room(place)
    with written(place):
        extended(file)
        with pytest.raises(privsep.PrivilegedError, match='Permission denied'):
            filesystems.grow(str(place))
    assert room(place) == before


class Way:
    """What os-brick does for a volume that is connected all along."""

    def __init__(self, source, extend):
        self.source, self._extend = str(source), extend

    def connect(self, request):
        return self.source

    def paths(self, request):
        return [self.source]

    def disconnect(self, request):
        pass

    def extend(self, request):
        self._extend()


def maps():
    """Return whether a device can be made of another."""
    program = shutil.which('dmsetup', path='/usr/sbin:/sbin')
    return (
        bool(program) and not subprocess.run([program, 'version'], capture_output=True).returncode
    )


@contextlib.contextmanager
def device(file):
    """Give a block device that is no loop device itself, and what extends it."""
    extended(file)
    loop = run('losetup', '--find', '--show', str(file)).strip()
    name = f'zun-test-{uuid.uuid4().hex}'

    def table(size):
        return f'0 {size // 512} linear {loop} 0'

    def extend():
        run('dmsetup', 'reload', name, '--table', table(2 * SIZE))
        run('dmsetup', 'resume', name)

    try:
        run('dmsetup', 'create', name, '--table', table(SIZE))
        try:
            yield Way(f'/dev/mapper/{name}', extend)
        finally:
            run('dmsetup', 'remove', '--retry', name)
    finally:
        run('losetup', '--detach', loop)


@pytest.fixture
def few_capabilities(place):
    """Have the privileged part in a process of its own, as nova-compute has it."""
    privsep.mounts.set_client_mode(True)
    privsep.mounts.start(priv_context.Method.FORK)
    # It would be left to the garbage.
    with contextlib.closing(privsep.mounts.channel.writer.writesock):
        yield
        privsep.mounts.stop()
    privsep.mounts.set_client_mode(False)


@pytest.mark.usefixtures('few_capabilities')
@pytest.mark.parametrize('kind', KINDS_THAT_GROW)
@pytest.mark.parametrize('connected', ['file', 'device'])
def test_a_volume_is_extended_while_it_is_in_use(place, file, kind, connected):
    with contextlib.ExitStack() as undo:
        way = Way(file, lambda: extended(file))
        if connected == 'device':
            if not maps():
                pytest.skip('dmsetup, and a kernel with the device mapper, are needed')
            way = undo.enter_context(device(file))
        volumes = volume.Volumes(way, sandbox.SandboxStore(place.parents[2]))
        request = volume.Request(storage.connection(place.name), '')
        undo.callback(volumes.unmount, place.parent.name, request)
        volumes.mount(place.parent.name, request, lambda: kind)
        assert filesystems.kind_of(place) == kind
        before = room(place)
        with written(place):
            volumes.grow(place.parent.name, request)
            assert_larger(place, before)


@pytest.mark.parametrize('kind', filesystems.KINDS)
def test_one_extended_meanwhile_grows_when_it_is_mounted(place, file, kind):
    device = filesystems.connect(str(file), False)
    filesystems.make(device, kind)
    filesystems.mount(device, str(place), kind, False)
    (place / 'kept').write_text('data')
    before = room(place)
    filesystems.unmount(str(place))
    extended(file)
    filesystems.mount(filesystems.connect(str(file), False), str(place), kind, False)
    assert room(place) > before + SIZE * 0.8
    assert (place / 'kept').read_text() == 'data'
