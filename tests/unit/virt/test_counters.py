"""How much is read from volumes and written to them, as nova asks for it."""

import types
import uuid

import pytest

from tests.unit.virt.conftest import make_instance, make_vif, spawn
from tests.unit.virt.storage import Content, connection
from zun_virt import counters, storage

ONE, TWO = (str(uuid.uuid4()) for _ in range(2))


@pytest.fixture
def box(zun, machine, monkeypatch):
    """A server that runs."""
    cinder = types.SimpleNamespace(get=lambda context, volume_id: {})
    monkeypatch.setattr(storage.cinder, 'API', lambda: cinder)
    machine.storage.contents.default_factory = lambda: Content('ext4')
    return spawn(zun, make_instance(), [make_vif()])


def attach(zun, instance, volume_id):
    info = connection(volume_id)
    zun.attach_volume(None, info, instance, '/dev/vdb')
    return info


def usage(zun, instance, *volume_ids):
    mappings = [types.SimpleNamespace(volume_id=volume_id) for volume_id in volume_ids]
    entries = [{'instance': instance, 'instance_bdms': mappings}]
    found = zun.get_all_volume_usage(None, entries)
    assert all(one['instance'] is instance for one in found)
    kinds = ('rd_req', 'rd_bytes', 'wr_req', 'wr_bytes')
    return {one['volume']: tuple(one[kind] for kind in kinds) for one in found}


def test_what_is_read_and_written_is_counted(zun, machine, box):
    """A loop device keeps the counts of the volumes, of others, that it served before."""
    info = attach(zun, box, ONE)
    assert usage(zun, box, ONE, TWO) == {ONE: (0, 0, 0, 0)}
    machine.storage.use(ONE, 1, 512, 2, 4096)
    assert usage(zun, box, ONE) == {ONE: (1, 512, 2, 4096)}
    assert zun.block_stats(box, 'vdb') == [1, 512, 2, 4096, None]
    assert zun.block_stats(box, 'vdc') == [0, 0, 0, 0, None]
    zun.detach_volume(None, info, box, '/dev/vdb')
    assert usage(zun, box, ONE) == {}
    assert zun.block_stats(box, 'vdb') == [0, 0, 0, 0, None]
    attach(zun, box, TWO)
    assert zun.block_stats(box, 'vdb') == [0, 0, 0, 0, None]


def test_counting_begins_anew_with_nova_compute(zun, machine, box):
    attach(zun, box, ONE)
    machine.storage.use(ONE, 1, 512, 2, 4096)
    zun._volumes = storage.volumes_of(machine.store)
    assert usage(zun, box, ONE) == {ONE: (0, 0, 0, 0)}
    machine.storage.use(ONE, 1, 512, 0, 0)
    assert usage(zun, box, ONE) == {ONE: (1, 512, 0, 0)}


def test_the_kernels_counts(tmp_path):
    (tmp_path / 'loop3').mkdir()
    (tmp_path / 'loop3' / 'stat').write_text('  5 0 16 7 3 1 8 2 0 9 9 0 0 0 0 2 1\n')
    assert counters.of_device('/dev/loop3', tmp_path) == (5, 16 << 9, 3, 8 << 9)
    assert counters.of_device('/dev/loop4', tmp_path) is None
