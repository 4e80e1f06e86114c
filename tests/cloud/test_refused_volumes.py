"""Volumes that a sandbox cannot have: each is refused with the reason, and all stays as it was."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import openstack
import pytest

from tests.cloud import faults, host, settings
from tests.cloud.cloud import User, Workspace, flavor_id, image_id, network_id
from tests.cloud.storage import Storage, digest, disk, path
from tests.cloud.waiting import stays, wait_until

pytestmark = pytest.mark.alone

# Beside what allinone's Cinder has: somewhere to go for a volume, and keys.
MORE = """
[DEFAULT]
enabled_backends = files,more
[more]
volume_driver = files_driver.FilesDriver
volume_backend_name = more
nfs_shares_config = {etc}/shares
nfs_mount_point_base = {state}/cinder/mnt
nas_secure_file_operations = false
nas_secure_file_permissions = false
[key_manager]
backend = cinder.keymgr.conf_key_mgr.ConfKeyManager
fixed_key = {key}
"""


@pytest.fixture(scope='module')
def another_pool(module_leaves_nothing: None, admin: User) -> Iterator[str]:
    """A second back end of Cinder, which can encrypt: its pool."""
    conf, api = settings.load(), admin.sdk.block_storage
    etc, name = pathlib.Path(conf['ETC'], 'cinder'), f'{conf.host}@more'
    config = etc / 'cinder.conf'
    before = config.read_text()
    services = ('cinder-api', 'cinder-volume')
    with contextlib.ExitStack() as undo:
        manage = (f'{conf["VENV"]}/bin/cinder-manage', '--config-file', str(config))
        undo.callback(host.command, *manage, 'service', 'remove', 'cinder-volume', name)
        undo.callback(faults.anew, *services)
        undo.callback(config.write_text, before)
        config.write_text(before + MORE.format(etc=etc, state=conf['STATE'], key='00' * 32))
        faults.anew(*services)

        def pools() -> list[str]:
            return [pool.name for pool in api.backend_pools() if pool.name.startswith(name)]

        wait_until('another pool', pools, timeout=60)
        yield pools()[0]


def test_boot_from_volume_is_refused(space: Workspace, storage: Storage) -> None:
    image = image_id(space.user, 'kubernetes/pause')
    boot = disk('image', image, volume_size=1, delete_on_termination=True) | {'boot_index': 0}
    server = space.user.compute.create_server(
        name=space.name('box'),
        flavor_id=flavor_id(space.user, 'sandbox.tiny'),
        networks=[{'uuid': network_id(space.user, 'private')}],
        block_device_mapping=[boot],
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
    before = digest(file)
    storage.user.compute.create_volume_attachment(server, volume_id=volume)
    wait_until(
        'the reason',
        lambda: 'neither ext4 nor xfs' in storage.reason(server, 'attach_volume'),
        timeout=30,
        explain=lambda: storage.reason(server, 'attach_volume'),
    )
    storage.until(volume, 'available')
    assert storage.devices(server) == {}
    assert digest(file) == before
    assert space.user.compute.get_server(server).status == 'ACTIVE'


def test_multiattach_is_refused(space: Workspace, storage: Storage) -> None:
    kinds = space.admin.sdk.block_storage
    kind = kinds.create_type(
        name=space.name('kind'), extra_specs={'multiattach': '<is> True'}, is_public=True
    )
    space.finally_do(kinds.delete_type, kind.id)
    server, volume = space.server(), storage.volume(volume_type=kind.name)
    said = []
    # By the API's version Nova says so at once, or in the server's events.
    try:
        storage.user.compute.create_volume_attachment(server, volume_id=volume)
    except openstack.exceptions.HttpException as error:
        said.append(str(error))
    wait_until(
        'the reason',
        lambda: 'multiattach' in ' '.join([*said, storage.reason(server, 'attach_volume')]),
        timeout=30,
        explain=lambda: f'{said} {storage.reason(server, "attach_volume")}',
    )
    stays('not attached', lambda: storage.status(volume) != 'in-use', seconds=2)
    storage.until(volume, 'available')
    assert storage.devices(server) == {}
    assert host.loop_devices() == set()


@pytest.mark.usefixtures('another_pool')
def test_an_encrypted_volume_is_refused(space: Workspace, storage: Storage) -> None:
    kinds = space.admin.sdk.block_storage
    kind = kinds.create_type(name=space.name('kind'), is_public=True)
    space.finally_do(kinds.delete_type, kind.id)
    kinds.create_type_encryption(
        kind, provider='luks', cipher='aes-xts-plain64', key_size=256, control_location='front-end'
    )
    server, volume = space.server(), storage.volume(volume_type=kind.name)
    before = digest(storage.file(volume))
    storage.user.compute.create_volume_attachment(server, volume_id=volume)
    wait_until(
        'the reason',
        lambda: 'it is encrypted' in storage.reason(server, 'attach_volume'),
        timeout=30,
        explain=lambda: storage.reason(server, 'attach_volume'),
    )
    storage.until(volume, 'available')
    assert storage.devices(server) == {}
    assert digest(storage.file(volume)) == before
    assert host.loop_devices() == set()
    assert space.user.compute.get_server(server).status == 'ACTIVE'


def test_cinders_migration_of_one_in_use_is_refused(
    space: Workspace, storage: Storage, another_pool: str
) -> None:
    user, server, volume = space.user, space.server(), storage.volume()
    storage.attach(server, volume)
    one = space.running(sandbox=server)
    user.shell(one, f'echo precious > {path(volume)}/file')
    before, admin = host.loop_devices(), space.admin.sdk.block_storage
    here = admin.get_volume(volume).host
    admin.migrate_volume(volume, host=another_pool)
    wait_until(
        'the reason',
        lambda: 'detach it' in storage.reason(server, 'swap_volume'),
        timeout=60,
        explain=lambda: f'{storage.reason(server, "swap_volume")} {admin.get_volume(volume)}',
    )
    wait_until(
        'Cinder has given it up',
        lambda: len(list(storage.api.volumes())) == 1 and storage.status(volume) == 'in-use',
        timeout=60,
        explain=lambda: str(list(storage.api.volumes())),
    )
    shown = admin.get_volume(volume)
    assert (shown.host, shown.migration_status) == (here, 'error')
    assert storage.devices(server) == {volume: '/dev/vdb'}
    assert host.loop_devices() == before
    assert user.shell(one, f'cat {path(volume)}/file') == 'precious\n'
    assert user.compute.get_server(server).status == 'ACTIVE'
    storage.detach(server, volume)
