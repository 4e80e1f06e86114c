"""Cinder's volumes in sandboxes, by the API of Nova and seen from containers."""

from __future__ import annotations

import pathlib

import pytest

from tests.cloud import host
from tests.cloud.cloud import Workspace, image_id
from tests.cloud.storage import Storage, digest, disk, file_system, path, root
from tests.cloud.waiting import stays, wait_until

GIB = 1 << 30
SEEN = 30.0  # seconds for a volume to get where it is wanted
XFS = {'zun:file_system': 'xfs'}


def test_a_volume_comes_and_goes_while_containers_run(space: Workspace, storage: Storage) -> None:
    user, server = space.user, space.server()
    first = space.running(sandbox=server)
    volume = storage.volume()
    storage.attach(server, volume)
    user.shell(first, f'echo precious > {path(volume)}/file && sync')
    second = space.running(sandbox=server)
    assert user.shell(second, f'cat {path(volume)}/file') == 'precious\n'
    code = user.execute(second, 'echo x > /volumes/beside')[1]
    assert code != 0, 'a container could write on the disk of the host'
    mounted = next(
        line for line in user.shell(first, 'cat /proc/mounts').splitlines() if volume in line
    )
    assert mounted.split()[2] == 'ext4'
    assert {'rw', 'nosuid', 'nodev'} <= set(mounted.split()[3].split(','))
    assert storage.devices(server) == {volume: '/dev/vdb'}
    (listed,) = user.cli_json('server', 'volume', 'list', server)
    assert (listed['Device'], listed['Volume ID']) == ('/dev/vdb', volume)
    record = host.sandboxes().read(server)
    assert record is not None
    (known,) = record.volumes
    assert (known.id, known.path, known.device) == (volume, path(volume), '/dev/vdb')

    storage.detach(server, volume)
    for one in (first, second):
        assert user.shell(one, 'ls /volumes') == ''
    record = host.sandboxes().read(server)
    assert record is not None
    assert record.volumes == ()
    assert storage.loops() == set()

    other = space.server()
    storage.attach(other, volume, device='/dev/vdq')
    assert storage.devices(other) == {volume: '/dev/vdq'}
    reader = space.running(sandbox=other)
    assert user.shell(reader, f'cat {path(volume)}/file') == 'precious\n'


def test_a_volume_in_use_stays(space: Workspace, storage: Storage) -> None:
    user, server, volume = space.user, space.server(), storage.volume()
    storage.attach(server, volume)
    writer = space.running(
        sandbox=server,
        command=['sh', '-c', f'exec 3>>{path(volume)}/log; while sleep 0.1; do echo x >&3; done'],
    )
    reader = space.running(sandbox=server)
    wait_until(
        'it writes', lambda: user.execute(reader, f'test -s {path(volume)}/log')[1] == 0, timeout=10
    )
    storage.ask_detach(server, volume)
    wait_until(
        'the reason',
        lambda: 'open' in storage.reason(server, 'detach_volume'),
        timeout=30,
        explain=lambda: storage.reason(server, 'detach_volume'),
    )
    storage.until(volume, 'in-use')
    assert storage.devices(server) == {volume: '/dev/vdb'}
    size = int(user.shell(reader, f'stat -c %s {path(volume)}/log'))
    wait_until(
        'it still writes',
        lambda: int(user.shell(reader, f'stat -c %s {path(volume)}/log')) > size,
        timeout=10,
    )
    user.containers.stop(writer, timeout=1)
    user.wait(writer, 'Stopped')
    storage.detach(server, volume)


def test_data_survives_what_happens_to_the_server(space: Workspace, storage: Storage) -> None:
    user, server, volume = space.user, space.server(), storage.volume(metadata=XFS)
    storage.attach(server, volume)
    one = space.running(sandbox=server)
    user.shell(one, f'echo precious > {path(volume)}/file')

    def intact() -> None:
        space.until_server(server, 'ACTIVE')
        user.wait(one, 'Running')
        assert user.shell(one, f'cat {path(volume)}/file') == 'precious\n'
        assert ' xfs ' in user.shell(one, f'grep {volume} /proc/mounts')

    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    assert storage.loops() == set(), 'a stopped server holds its volume'
    user.compute.start_server(server)
    intact()
    for kind in ('SOFT', 'HARD'):
        began = host.pause(server).attrs['State']['StartedAt']
        user.compute.reboot_server(server, kind)
        wait_until(
            'a new start',
            lambda began=began: host.pause(server).attrs['State']['StartedAt'] != began,
            timeout=60,
        )
        intact()
    pause = host.pause(server).id
    user.compute.rebuild_server(server, image=image_id(user, 'kubernetes/pause'))
    wait_until('another sandbox', lambda: pause not in _pauses(server), timeout=60)
    intact()
    assert storage.status(volume) == 'in-use'


def _pauses(server: str) -> set[str]:
    return {one.id for one in host.containers(server, 'pause')} or {'none yet'}


def test_attach_and_detach_while_stopped(space: Workspace, storage: Storage) -> None:
    user, server, volume = space.user, space.server(), storage.volume()
    one = space.running(sandbox=server)
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    storage.attach(server, volume)
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    user.shell(one, f'touch {path(volume)}/file')
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    storage.detach(server, volume)
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert user.shell(one, 'ls /volumes') == ''


def test_volumes_at_boot(space: Workspace, storage: Storage) -> None:
    """Existing ones, a blank one, one of a snapshot: each as Nova's mapping has it."""
    user, old = space.user, storage.volume()
    first = space.server(
        block_device_mapping=[root(space), disk('volume', old, delete_on_termination=False)]
    )
    one = space.running(sandbox=first)
    user.shell(one, f'echo precious > {path(old)}/file')
    space.remove([one])
    space.delete_server(first)
    storage.until(old, 'available')

    snapshot = storage.api.create_snapshot(volume_id=old, name=space.name('snapshot'))
    space.finally_do(storage.api.wait_for_delete, snapshot)
    space.finally_do(storage.api.delete_snapshot, snapshot.id)
    storage.api.wait_for_status(snapshot, 'available', interval=1, wait=60)
    second = space.server(
        block_device_mapping=[
            root(space),
            disk('snapshot', snapshot.id, volume_size=1, delete_on_termination=True),
            disk('blank', volume_size=1, delete_on_termination=True, guest_format='xfs'),
        ]
    )
    volumes = sorted(storage.devices(second), key=storage.devices(second).__getitem__)
    assert list(storage.devices(second).values()).count('/dev/vdb') == 1
    two = space.running(sandbox=second)
    assert user.shell(two, f'cat {path(volumes[0])}/file') == 'precious\n'
    assert ' xfs ' in user.shell(two, f'grep {volumes[1]} /proc/mounts')
    space.remove([two])
    space.delete_server(second)
    for volume in volumes:
        storage.until(volume, 'gone')


def test_a_volume_grows_while_it_is_in_use(space: Workspace, storage: Storage) -> None:
    user, server, volume = space.user, space.server(), storage.volume(metadata=XFS)
    storage.attach(server, volume)
    one = space.running(
        sandbox=server,
        command=['sh', '-c', f'exec 3>{path(volume)}/open; trap "exit 0" TERM; sleep 3600 & wait'],
    )

    def kilobytes() -> int:
        return int(user.shell(one, f'df -k {path(volume)} | tail -1').split()[1])

    assert kilobytes() < GIB >> 10
    user.sdk.block_storage.extend_volume(volume, 2)
    wait_until('it has grown', lambda: kilobytes() > 1.8 * GIB / 1024, timeout=SEEN)
    storage.until(volume, 'in-use')
    stays(
        'it is there', lambda: user.execute(one, f'test -e {path(volume)}/open')[1] == 0, seconds=1
    )


@pytest.fixture
def written(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with a file of data."""
    directory = tmp_path / 'written'
    directory.mkdir()
    (directory / 'file').write_text('precious\n')
    return directory


def test_a_read_only_volume(space: Workspace, storage: Storage, written: pathlib.Path) -> None:
    user, server, volume = space.user, space.server(), storage.volume()
    file_system(storage.file(volume), written)
    before = digest(storage.file(volume))
    storage.api.set_volume_readonly(volume)
    storage.attach(server, volume)
    one = space.running(sandbox=server)
    mounted = user.shell(one, f'grep {volume} /proc/mounts')
    assert 'ro' in mounted.split()[3].split(',')
    assert user.shell(one, f'cat {path(volume)}/file') == 'precious\n'
    said, code = user.execute(one, f'echo more > {path(volume)}/file')
    assert code != 0
    assert 'Read-only file system' in said
    record = host.sandboxes().read(server)
    assert record is not None
    assert [known.read_only for known in record.volumes] == [True]
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert 'ro' in user.shell(one, f'grep {volume} /proc/mounts').split()[3].split(',')
    storage.detach(server, volume)
    assert digest(storage.file(volume)) == before


def test_a_volume_of_an_image_is_never_formatted(
    space: Workspace, storage: Storage, written: pathlib.Path
) -> None:
    user, raw = space.user, written.parent / 'data.raw'
    file_system(raw, written, size=16)
    image = user.image.create_image(
        name=space.name('data'),
        data=raw.read_bytes(),
        container_format='bare',
        disk_format='raw',
        wait=True,
    )
    space.finally_do(user.image.delete_image, image.id)
    server = space.server(
        block_device_mapping=[
            root(space),
            disk('image', image.id, volume_size=1, delete_on_termination=True),
        ]
    )
    (volume,) = storage.devices(server)
    one = space.running(sandbox=server)
    assert user.shell(one, f'cat {path(volume)}/file') == 'precious\n'
    size = int(user.shell(one, f'df -k {path(volume)} | tail -1').split()[1])
    assert size > 0.8 * GIB / 1024, 'it did not grow to its volume'
