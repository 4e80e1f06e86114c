"""Cinder's volumes in sandboxes, by the API of Nova and seen from containers."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import typing

import openstack
import pytest

from tests.cloud import host, settings
from tests.cloud.cloud import Workspace, network_id
from tests.cloud.waiting import stays, wait_until

GIB = 1 << 30
SEEN = 30.0  # seconds for a volume to get where it is wanted
XFS = {'zun:file_system': 'xfs'}


class Storage:
    """The tenant's volumes."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.user = space.user
        self.api = space.user.sdk.block_storage

    def volume(self, size: int = 1, **spec: typing.Any) -> str:
        """Make a volume, which goes when the servers have; returns its id."""
        made = self.api.create_volume(size=size, name=self.space.name('volume'), **spec)
        self.space.finally_do(self.delete, made.id)
        self.until(made.id, 'available')
        return str(made.id)

    def delete(self, volume_id: str) -> None:
        """Delete a volume, and wait for it."""
        self.api.delete_volume(volume_id)
        self.until(volume_id, 'gone')

    def status(self, volume_id: str) -> str:
        try:
            return str(self.api.get_volume(volume_id).status)
        except openstack.exceptions.NotFoundException:
            return 'gone'

    def until(self, volume_id: str, status: str) -> None:
        wait_until(
            f'volume {volume_id} {status}',
            lambda: self.status(volume_id) == status,
            timeout=60,
            interval=0.3,
            explain=lambda: self.status(volume_id),
        )

    def attach(self, server: str, volume_id: str, **spec: typing.Any) -> None:
        self.user.compute.create_volume_attachment(server, volume_id=volume_id, **spec)
        self.until(volume_id, 'in-use')

    def ask_detach(self, server: str, volume_id: str) -> None:
        self.user.compute.delete_volume_attachment(server, volume_id)

    def detach(self, server: str, volume_id: str) -> None:
        self.ask_detach(server, volume_id)
        self.until(volume_id, 'available')
        wait_until(
            'Nova has forgotten it', lambda: volume_id not in self.devices(server), timeout=30
        )

    def devices(self, server: str) -> dict[str, str]:
        """Return the names of a server's volumes in Nova, by their ids."""
        return {one.volume_id: one.device for one in self.user.compute.volume_attachments(server)}

    def file(self, volume_id: str) -> pathlib.Path:
        """Return where Cinder keeps a volume."""
        return pathlib.Path(settings.load()['STATE'], 'cinder/share', f'volume-{volume_id}')

    def reason(self, server: str, action: str) -> str:
        """Return what Nova says of the last failed action of this name."""
        found = [
            event.details or ''
            for one in self.user.compute.server_actions(server)
            if one.action == action
            for event in self.space.admin.compute.get_server_action(one.request_id, server).events
        ]
        fault = self.user.compute.get_server(server).fault
        return ' '.join(map(str, [*found, fault]))


@pytest.fixture
def storage(space: Workspace) -> Storage:
    return Storage(space)


def path(volume_id: str) -> str:
    return f'/volumes/{volume_id}'


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
    assert host.loop_devices() == set()

    other = space.server()
    storage.attach(other, volume, device='/dev/vdq')
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
    assert host.loop_devices() == set(), 'a stopped server holds its volume'
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
    image = user.image.find_image('kubernetes/pause').id
    user.compute.rebuild_server(server, image=image)
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


def _disk(source: str, uuid: str | None = None, **spec: typing.Any) -> dict[str, typing.Any]:
    disk = {'source_type': source, 'destination_type': 'volume', 'boot_index': -1, **spec}
    return disk | ({'uuid': uuid} if uuid else {})


def _root(space: Workspace) -> dict[str, typing.Any]:
    image = space.user.image.find_image('kubernetes/pause', ignore_missing=False)
    return {
        'source_type': 'image',
        'destination_type': 'local',
        'uuid': image.id,
        'boot_index': 0,
        'delete_on_termination': True,
    }


def test_volumes_at_boot(space: Workspace, storage: Storage) -> None:
    """Existing ones, a blank one, one of a snapshot: each as Nova's mapping has it."""
    user, old = space.user, storage.volume()
    first = space.server(
        block_device_mapping=[_root(space), _disk('volume', old, delete_on_termination=False)]
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
            _root(space),
            _disk('snapshot', snapshot.id, volume_size=1, delete_on_termination=True),
            _disk('blank', volume_size=1, delete_on_termination=True, guest_format='xfs'),
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


def test_boot_from_volume_is_refused(space: Workspace, storage: Storage) -> None:
    image = space.user.image.find_image('kubernetes/pause', ignore_missing=False)
    root = _disk('image', image.id, volume_size=1, delete_on_termination=True) | {'boot_index': 0}
    server = space.user.compute.create_server(
        name=space.name('box'),
        flavor_id=space.user.compute.find_flavor('sandbox.tiny').id,
        networks=[{'uuid': network_id(space.user, 'private')}],
        block_device_mapping=[root],
    )
    space.adopt_server(server.id)
    space.until_server(server.id, 'ERROR')
    fault = space.user.compute.get_server(server.id).fault
    assert 'cannot boot from a volume' in str(fault), fault
    assert list(storage.api.volumes()) == []


def test_a_volume_with_something_else_on_it_is_left_alone(
    space: Workspace, storage: Storage
) -> None:
    server, volume = space.server(), storage.volume()
    file = storage.file(volume)
    with file.open('r+b') as stream:
        stream.seek(5 << 20)
        stream.write(b'a database that knows no file system')
    before = _digest(file)
    storage.user.compute.create_volume_attachment(server, volume_id=volume)
    wait_until(
        'the reason',
        lambda: 'neither ext4 nor xfs' in storage.reason(server, 'attach_volume'),
        timeout=30,
        explain=lambda: storage.reason(server, 'attach_volume'),
    )
    storage.until(volume, 'available')
    assert storage.devices(server) == {}
    assert _digest(file) == before
    assert space.user.compute.get_server(server).status == 'ACTIVE'


def _digest(file: pathlib.Path) -> str:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


def test_multiattach_is_refused(space: Workspace, storage: Storage) -> None:
    kinds = space.admin.sdk.block_storage
    kind = kinds.create_type(
        name=space.name('kind'), extra_specs={'multiattach': '<is> True'}, is_public=True
    )
    space.finally_do(kinds.delete_type, kind.id)
    server, volume = space.server(), storage.volume(volume_type=kind.name)
    # By the API's version Nova says so at once, or in the server's events.
    with contextlib.suppress(openstack.exceptions.HttpException):
        storage.user.compute.create_volume_attachment(server, volume_id=volume)
    stays('not attached', lambda: storage.status(volume) != 'in-use', seconds=5)
    storage.until(volume, 'available')
    assert storage.devices(server) == {}
    assert host.loop_devices() == set()


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
