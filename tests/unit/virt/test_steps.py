"""What the log tells at debug of how long the driver's own steps took."""

import re

import pytest

from tests.unit.virt.conftest import make_image, make_instance, spawn
from zun_virt import host, image


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
