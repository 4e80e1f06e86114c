"""Volumes as nova gives and takes them, on a host in memory."""

import types
import uuid

import pytest
from nova import exception
from os_brick import exception as brick

from tests.unit.virt.conftest import CONF, make_image, make_instance, make_vif
from tests.unit.virt.storage import Content, connection, mapping
from zun_virt import privsep, sandbox, servers, storage

ONE, TWO = (str(uuid.uuid4()) for _ in range(2))


@pytest.fixture
def cinder(monkeypatch):
    """The properties of volumes, by their ids."""
    properties = {}

    class API:
        def get(self, context, volume_id):
            return {'volume_metadata': properties.get(volume_id, {})}

    monkeypatch.setattr(storage.cinder, 'API', API)
    return properties


@pytest.fixture
def box(zun, cinder):
    """A server without volumes that runs."""
    return spawn(zun, make_instance())


def spawn(zun, instance, *mappings, **options):
    zun.spawn(
        None,
        instance,
        make_image(),
        None,
        None,
        None,
        network_info=[make_vif()],
        block_device_info={'block_device_mapping': list(mappings)},
        **options,
    )
    return instance


def attach(zun, instance, volume_id=ONE, **data):
    info = connection(volume_id, **data)
    zun.attach_volume(None, info, instance, '/dev/vdb')
    return info


def volumes(machine, instance):
    return machine.store.read(instance.uuid).volumes


def at(machine, instance):
    return machine.storage.at(machine.store.volumes(instance.uuid))


def test_attach_and_detach(zun, machine, box):
    info = attach(zun, box)
    assert at(machine, box) == {ONE}
    assert volumes(machine, box) == (
        sandbox.Volume(id=ONE, path=f'/volumes/{ONE}', device='/dev/vdb', file_system='ext4'),
    )
    zun.detach_volume(None, info, box, '/dev/vdb')
    assert volumes(machine, box) == ()
    assert machine.leftovers_of_volumes() == {}


def test_containers_get_the_place_where_volumes_will_be(machine, box):
    pause = machine.docker.named(sandbox.sandbox_name(box.uuid))
    (mount,) = pause['HostConfig']['Mounts']
    assert mount['Source'] == str(machine.store.volumes(box.uuid))
    assert mount['Target'] == '/volumes'
    assert mount['ReadOnly'] is True
    assert mount['BindOptions'] == {'Propagation': 'rslave', 'ReadOnlyNonRecursive': True}


@pytest.mark.parametrize(
    ('metadata', 'default', 'made'),
    [({}, 'ext4', 'ext4'), ({}, 'xfs', 'xfs'), ({'zun:file_system': 'xfs'}, 'ext4', 'xfs')],
)
def test_the_file_system_of_a_blank_volume(zun, machine, box, cinder, metadata, default, made):
    cinder[ONE] = metadata
    CONF.set_override('default_file_system', default, group='zun_virt')
    try:
        attach(zun, box)
    finally:
        CONF.clear_override('default_file_system', group='zun_virt')
    assert machine.storage.contents[ONE].kind == made
    assert volumes(machine, box)[0].file_system == made


def test_what_is_on_a_volume_stays(zun, machine, box):
    machine.storage.contents[ONE] = Content('xfs')
    attach(zun, box)
    assert machine.storage.contents[ONE].made == 0
    assert volumes(machine, box)[0].file_system == 'xfs'


@pytest.mark.parametrize(
    ('content', 'metadata', 'data', 'reason'),
    [
        (Content('crypto_LUKS'), {}, {}, 'there is crypto_LUKS on it'),
        (Content('', blank=False), {}, {}, 'something unknown'),
        (Content(), {'zun:file_system': 'ntfs'}, {}, "zun:file_system='ntfs'"),
        (Content(), {}, {'access_mode': 'ro'}, 'blank, and read-only'),
        (Content(), {}, {'format': 'qcow2'}, 'a qcow2 file'),
        (Content(), {}, {'encrypted': True}, 'encrypted'),
    ],
)
def test_a_volume_that_a_sandbox_cannot_have(
    zun, machine, box, cinder, content, metadata, data, reason
):
    machine.storage.contents[ONE] = content
    cinder[ONE] = metadata
    with pytest.raises(exception.InvalidInput, match=reason):
        attach(zun, box, **data)
    assert content.made == 0
    assert volumes(machine, box) == ()
    assert machine.leftovers_of_volumes() == {}


def test_one_that_cinder_lets_nobody_write_to(zun, machine, cinder, monkeypatch):
    """With most drivers Cinder calls its connection writable to a tenant all the same."""
    machine.storage.contents[ONE] = Content('ext4')
    cinder[ONE] = {'readonly': 'True'}
    disk = mapping(ONE, access_mode='rw')
    instance = spawn(zun, make_instance(), disk)

    def mounted():
        (entry,) = machine.storage.mounts.values()
        return entry[2], volumes(machine, instance)[0].read_only

    assert mounted() == (True, True)
    zun.power_off(instance)
    # It cannot change while the volume is attached, and Cinder may be away at a start.
    monkeypatch.delattr(storage.cinder, 'API')
    disks = {'block_device_mapping': [mapping(ONE, access_mode='rw')]}
    zun.power_on(None, instance, [make_vif()], disks)
    assert mounted() == (True, True)


def test_one_that_cinder_lets_nobody_write_to_is_attached(zun, machine, box, cinder):
    machine.storage.contents[ONE] = Content('xfs')
    cinder[ONE] = {'readonly': 'True'}
    info = attach(zun, box, access_mode='rw')
    assert volumes(machine, box)[0].read_only
    assert info['data']['access_mode'] == 'ro'  # for nova's record of the volume


def test_one_that_nobody_may_write_to_any_more_when_its_server_comes_back(
    zun, machine, cinder, monkeypatch
):
    """While a move waits for its confirmation it can be detached and attached otherwise."""
    disks = {'block_device_mapping': [mapping(ONE, access_mode='rw')]}
    instance = spawn(zun, make_instance(), mapping(ONE))
    away = types.SimpleNamespace(source_compute='host1', dest_compute='host2')
    monkeypatch.setattr(servers, 'migration_of', lambda _instance: away)
    zun.migrate_disk_and_power_off(None, instance, '', instance.flavor, [make_vif()], disks)
    assert volumes(machine, instance) == ()
    cinder[ONE] = {'readonly': 'True'}
    zun.finish_revert_migration(None, instance, [make_vif()], away, disks)
    assert volumes(machine, instance)[0].read_only
    assert [read_only for _, _, read_only in machine.storage.mounts.values()] == [True]


def test_multiattach_is_refused(zun, machine, box):
    info = connection(ONE) | {'multiattach': True}
    with pytest.raises(exception.InvalidInput, match='two hosts'):
        zun.attach_volume(None, info, box, '/dev/vdb')
    assert zun.capabilities['supports_multiattach'] is False
    assert machine.leftovers_of_volumes() == {}


@pytest.mark.parametrize('step', ['connect_volume', 'connect', 'probe', 'make', 'mount'])
def test_a_failed_attachment_is_undone_and_can_be_repeated(zun, machine, box, step):
    error = brick.BrickException('no') if step == 'connect_volume' else OSError(5, 'no')
    machine.storage.fail(step, error)
    with pytest.raises(exception.VolumeAttachFailed, match='no'):
        attach(zun, box)
    assert volumes(machine, box) == ()
    assert machine.leftovers_of_volumes() == {}
    attach(zun, box)
    assert at(machine, box) == {ONE}


@pytest.mark.parametrize('error', [OSError(28, 'it is full'), sandbox.SandboxBusy('it is held')])
def test_one_that_cannot_be_written_down_is_not_left_mounted(zun, machine, box, monkeypatch, error):
    """nova lets Cinder give it to another host next, and asks for no detachment."""

    def write(record):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(zun._sandboxes.store, 'write', write)
        with pytest.raises(exception.NovaException, match='it is'):
            attach(zun, box)
    assert machine.leftovers_of_volumes() == {}
    attach(zun, box)
    assert at(machine, box) == {ONE}


def test_an_attachment_that_was_interrupted_is_repeated(zun, machine, box):
    """nova-compute was killed after the mount, and before nova knew."""
    attach(zun, box)
    machine.store.write(machine.store.read(box.uuid).replace(volumes=()))
    attach(zun, box)
    assert len(machine.storage.mounts) == len(machine.storage.loops) == 1
    assert machine.storage.contents[ONE].made == 1
    assert [volume.id for volume in volumes(machine, box)] == [ONE]


def test_a_volume_in_use_stays_attached(zun, machine, box):
    info = attach(zun, box)
    machine.storage.busy.add(ONE)
    with pytest.raises(exception.DeviceDetachFailed, match='open'):
        zun.detach_volume(None, info, box, '/dev/vdb')
    assert at(machine, box) == {ONE}
    assert [volume.id for volume in volumes(machine, box)] == [ONE]
    machine.storage.busy.clear()
    zun.detach_volume(None, info, box, '/dev/vdb')
    zun.detach_volume(None, info, box, '/dev/vdb')
    assert machine.leftovers_of_volumes() == {}


def test_a_detachment_that_fails_at_the_end_is_repeated(zun, machine, box):
    info = attach(zun, box)
    machine.storage.fail('disconnect_volume', brick.BrickException('no'))
    with pytest.raises(exception.DeviceDetachFailed, match='no'):
        zun.detach_volume(None, info, box, '/dev/vdb')
    zun.detach_volume(None, info, box, '/dev/vdb')
    assert volumes(machine, box) == ()
    assert machine.leftovers_of_volumes() == {}


def test_volumes_at_boot(zun, machine, cinder):
    machine.storage.contents[ONE] = Content('ext4')
    disks = [mapping(ONE), mapping(TWO, '/dev/vdc', guest_format='xfs')]
    instance = spawn(zun, make_instance(), *disks)
    assert at(machine, instance) == {ONE, TWO}
    found = {volume.device: volume.file_system for volume in volumes(machine, instance)}
    assert found == {'/dev/vdb': 'ext4', '/dev/vdc': 'xfs'}
    assert machine.storage.contents[ONE].made == 0
    zun.destroy(None, instance, [make_vif()], {'block_device_mapping': disks})
    assert machine.leftovers_of_volumes() == {}
    assert machine.leftovers() == {}


@pytest.mark.parametrize('second', [Content('swap'), Content('ext4')])
def test_a_failed_boot_gives_all_volumes_back(zun, machine, cinder, second):
    machine.storage.contents[TWO] = second
    if second.kind == 'ext4':
        machine.storage.fail('mount', OSError(5, 'no'))
    with pytest.raises(exception.Invalid):
        spawn(zun, make_instance(), mapping(ONE), mapping(TWO, '/dev/vdc'))
    assert machine.leftovers_of_volumes() == {}
    assert machine.leftovers() == {}


def test_boot_from_volume_is_refused_before_anything(zun, machine):
    with pytest.raises(exception.InstanceUnacceptable, match='cannot boot from a volume'):
        zun.prepare_for_spawn(make_instance(image_ref=''))
    zun.prepare_for_spawn(make_instance(image_ref=str(uuid.uuid4())))
    assert machine.leftovers() == {}


def test_a_volume_that_is_not_attached_yet_is_left_out(zun, machine, box):
    nothing = mapping(ONE) | {'connection_info': {}}
    zun.destroy(None, box, [make_vif()], {'block_device_mapping': [nothing]})
    assert machine.leftovers() == {}


def test_stop_and_start(zun, machine, cinder):
    disks = {'block_device_mapping': [mapping(ONE)]}
    instance = spawn(zun, make_instance(), mapping(ONE))
    zun.power_off(instance)
    assert at(machine, instance) == set()
    assert machine.storage.loops == {}
    # The record says what it will have again.
    assert [volume.id for volume in volumes(machine, instance)] == [ONE]
    zun.power_on(None, instance, [make_vif()], disks)
    assert at(machine, instance) == {ONE}
    zun.reboot(None, instance, [make_vif()], 'SOFT', disks)
    assert at(machine, instance) == {ONE}
    assert machine.storage.contents[ONE].made == 1


def test_a_volume_that_somebody_else_uses_does_not_keep_a_server_from_stopping(
    zun, machine, cinder, monkeypatch
):
    monkeypatch.setattr('zun_virt.volume._ENDING_SECONDS', 0.2)
    disks = {'block_device_mapping': [mapping(ONE)]}
    instance = spawn(zun, make_instance(), mapping(ONE))
    machine.storage.busy.add(ONE)
    zun.power_off(instance)
    assert machine.store.read(instance.uuid).state is sandbox.State.STOPPED
    zun.power_on(None, instance, [make_vif()], disks)
    assert len(machine.storage.mounts) == 1
    # But a server is not gone while its data is in use here.
    with pytest.raises(exception.DeviceDetachFailed):
        zun.destroy(None, instance, [make_vif()], disks)
    assert at(machine, instance) == {ONE}
    machine.storage.busy.clear()
    zun.destroy(None, instance, [make_vif()], disks)
    assert machine.leftovers_of_volumes() == {}
    assert machine.leftovers() == {}


def test_a_start_without_one_of_its_volumes_fails(zun, machine, cinder):
    disks = {'block_device_mapping': [mapping(ONE)]}
    instance = spawn(zun, make_instance(), mapping(ONE))
    zun.power_off(instance)
    machine.storage.fail('connect_volume', brick.BrickException('the share is away'))
    with pytest.raises(exception.VolumeAttachFailed, match='away'):
        zun.power_on(None, instance, [make_vif()], disks)
    assert machine.store.read(instance.uuid).state is sandbox.State.STOPPED
    zun.power_on(None, instance, [make_vif()], disks)
    assert at(machine, instance) == {ONE}


def device(volume_id=ONE):
    """Return an entry of nova's block device mapping for a volume that is no file."""
    disk = mapping(volume_id)
    disk['connection_info']['driver_volume_type'] = 'iscsi'
    return disk


def test_a_block_device_would_not_survive_a_resize_here():
    storage.Storage._check_kept({'block_device_mapping': [mapping(ONE)]})
    storage.Storage._check_kept(None)
    with pytest.raises(exception.InvalidInput, match=f'{ONE} are block devices'):
        storage.Storage._check_kept({'block_device_mapping': [device()]})


@pytest.mark.parametrize(
    ('state', 'to', 'disk', 'refused'),
    [
        ('resized', 'host1', device(), True),
        ('resized', 'host1', mapping(ONE), False),
        ('resized', 'host2', device(), False),
        ('active', 'host1', device(), False),
    ],
)
def test_a_block_device_would_not_survive_a_revert_here(
    zun, machine, box, monkeypatch, state, to, disk, refused
):
    migration = types.SimpleNamespace(source_compute='host1', dest_compute=to)
    monkeypatch.setattr(servers, 'migration_of', lambda _instance: migration)
    box.vm_state = state
    if refused:
        with pytest.raises(exception.InvalidInput, match='confirm or revert'):
            zun.attach_volume(None, disk['connection_info'], box, '/dev/vdb')
    else:
        zun.attach_volume(None, disk['connection_info'], box, '/dev/vdb')
    assert at(machine, box) == (set() if refused else {ONE})


def test_extending(zun, machine, box):
    info = attach(zun, box)
    machine.storage.contents[ONE].size = 2
    zun.extend_volume(None, info, box, 2 << 30)
    assert machine.storage.contents[ONE].file_system_size == 2
    machine.storage.fail('grow', privsep.PrivilegedError('Permission denied'))
    with pytest.raises(exception.NovaException, match='next start'):
        zun.extend_volume(None, info, box, 3 << 30)
    zun.detach_volume(None, info, box, '/dev/vdb')
    zun.extend_volume(None, info, box, 3 << 30)


def test_exchange_is_refused(zun, machine, box):
    info = attach(zun, box)
    with pytest.raises(exception.InvalidInput, match='detach it'):
        zun.swap_volume(None, info, connection(TWO), box, '/dev/vdb', 0)
    assert at(machine, box) == {ONE}


def test_cinder_is_told_of_this_host(zun):
    assert zun.get_volume_connector(None)['host'] == CONF.host


def test_a_directory_with_a_mounted_volume_is_not_emptied(machine, box):
    """Whatever else fails, a tenant's data is not removed with the sandbox."""
    place = machine.store.volumes(box.uuid) / ONE
    place.mkdir()
    (place / 'precious').touch()
    with pytest.raises(OSError, match='not empty'):
        machine.store.remove(box.uuid)
    assert (place / 'precious').exists()
