"""What the log tells at debug of how long the driver's own steps took."""

import logging
import re
import types
import uuid

import pytest

from tests.unit.virt.conftest import make_image, make_instance, make_vif, spawn
from tests.unit.virt.storage import connection
from zun_virt import host, image, servers, storage

VOLUME = str(uuid.uuid4())


@pytest.fixture
def told(zun, monkeypatch, caplog):
    """Return what was logged with the steps of something."""
    properties = {'volume_metadata': {}}
    cinder = types.SimpleNamespace(get=lambda context, volume_id: properties)
    monkeypatch.setattr(storage.cinder, 'API', lambda: cinder)
    caplog.set_level(logging.DEBUG, 'zun_virt')

    def steps(what):
        found = [
            re.fullmatch(rf'(?:\[.*\] )?{what} in [0-9]+ ms: (.*)', record.getMessage())
            for record in caplog.records
        ]
        (only,) = [match[1] for match in found if match]
        return [part.split()[0] for part in only.split(', ')]

    return steps


def test_volumes(zun, told):
    instance = spawn(zun, make_instance())
    info = connection(VOLUME)
    zun.attach_volume(None, info, instance, '/dev/vdb')
    assert told(f'Attached volume {VOLUME}') == ['mount', 'record']
    zun.detach_volume(None, info, instance, '/dev/vdb')
    assert told(f'Detached volume {VOLUME}') == ['unmount', 'record']


def test_interfaces(zun, told):
    instance, vif = spawn(zun, make_instance()), make_vif()
    zun.attach_interface(None, instance, None, vif)
    assert told(f'Attached port {vif["id"]}') == ['lock', 'interfaces']
    zun.detach_interface(None, instance, vif)
    assert told(f'Detached port {vif["id"]}') == ['lock', 'unplug', 'interfaces']


@pytest.mark.parametrize(
    ('dest', 'what', 'steps'),
    [('host1', 'Resized', ['limits']), ('host2', 'Ready to move', ['check', 'stop'])],
)
def test_moves(zun, told, monkeypatch, dest, what, steps):
    instance = spawn(zun, make_instance())
    migration = types.SimpleNamespace(source_compute='host1', dest_compute=dest)
    monkeypatch.setattr(servers, 'migration_of', lambda _instance: migration)
    zun.migrate_disk_and_power_off(None, instance, '1.2.3.4', instance.flavor, [])
    assert told(what) == steps


@pytest.mark.parametrize(
    ('act', 'line'),
    [
        ('spawn', r'Image \S+: fetched in N ms: download N, check N, load N$'),
        ('spawn', r'Spawned in N ms: image N, volumes N, sandbox N, allocation N, plug N, '),
        ('pause', r'Sandbox \S+: frozen in N ms: containers N$'),
        ('unpause', r'Sandbox \S+: thawed in N ms: containers N$'),
        ('snapshot', r'Snapshot taken in N ms: images N, upload N$'),
        ('power_off', r'Sandbox \S+: stopped in N ms: containers N, network N$'),
        ('destroy', r'Sandbox \S+: removed in N ms: stop N, network N, removal N$'),
    ],
)
def test_each_act_is_told_with_its_steps(zun, machine, vif, caplog, act, line):
    caplog.set_level('DEBUG')
    instance = spawn(zun, make_instance(vm_state='building'), [vif])
    machine.add_container(instance.uuid)
    acts = {
        'spawn': lambda: None,
        'pause': lambda: zun.pause(instance),
        'unpause': lambda: zun.unpause(instance),
        'snapshot': lambda: zun.snapshot(None, instance, make_image().id, lambda **_: None),
        'power_off': lambda: zun.power_off(instance),
        'destroy': lambda: zun.destroy(None, instance, [vif]),
    }
    acts[act]()
    pattern = re.compile(line.replace('N', r'\d+'))
    assert [entry for entry in caplog.messages if pattern.search(entry)]


def test_so_is_a_pull(machine, tmp_path, caplog):
    caplog.set_level('DEBUG')
    machine.docker.images_.clear()
    image.Images(
        host.Host(machine.docker, 'host1'),
        machine.glance,
        scratch=tmp_path,
        architecture='x86_64',
        configured='kubernetes/pause',
    ).prepare()
    assert re.search(r'Image kubernetes/pause: fetched in \d+ ms: pull \d+$', caplog.text, re.M)
