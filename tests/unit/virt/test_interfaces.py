"""Interfaces plugged when nova-compute starts, attached and detached."""

import pytest
from nova import exception
from nova.network import model

from tests.unit.virt.conftest import make_image, make_instance, make_subnet, make_vif, record, spawn
from zun_virt.privsep import RouteRefused


def test_plugging_at_start_up_cuts_nothing(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    before = dict(machine.kernel.devices[vif['devname']])
    zun.plug_vifs(instance, [vif])
    assert machine.kernel.devices[vif['devname']] == before


def test_plugging_at_start_up_repairs(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    del machine.kernel.devices[vif['devname']]
    zun.plug_vifs(instance, [vif])
    assert not machine.switch.stale
    assert vif['devname'] in machine.kernel.devices


@pytest.mark.parametrize('error', [RuntimeError('boom'), OSError(1, 'no'), TypeError('bug')])
def test_plugging_at_start_up_never_stops_nova_compute(zun, machine, vif, error):
    instance = spawn(zun, make_instance(), [vif])
    machine.kernel.fail('plug', error)
    with pytest.raises(exception.VirtualInterfacePlugException):
        zun.plug_vifs(instance, [vif])
    machine.docker.down = True
    with pytest.raises(exception.VirtualInterfacePlugException):
        zun.plug_vifs(instance, [vif])


def test_a_route_that_cannot_be_is_the_users_to_mend(zun, machine, vif):
    """Nova tells its user of invalid input, and goes on to another host with all else."""
    for _ in range(2):
        machine.kernel.fail('plug', RouteRefused('route to 192.0.2.0/24 by 10.0.0.255: no'))
    with pytest.raises(exception.InvalidInput, match=r'port .*: route to 192.0.2.0/24 by'):
        spawn(zun, make_instance(), [vif])
    assert not machine.docker.containers(all=True)


def test_a_gateway_that_a_later_port_lost_is_found_the_second_time(zun, machine, vif):
    instance, second = spawn(zun, make_instance(), [vif]), make_vif(2)
    machine.kernel.fail('plug', RouteRefused('route to 0.0.0.0/0 by 10.0.0.1: no'))
    zun.plug_vifs(instance, [vif, second])
    assert set(machine.kernel.devices) == {vif['devname'], second['devname']}


def test_plugging_at_start_up_is_nothing_for_a_stopped_sandbox(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    zun.power_off(instance)
    zun.plug_vifs(instance, [vif])
    assert machine.kernel.devices == {}


def test_interfaces_come_and_go(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    instance.info_cache.network_info = model.NetworkInfo([vif])
    second = make_vif(2, subnets=[make_subnet('10.1.0.0/24', '10.1.0.1', ['10.1.0.9'])])
    zun.attach_interface(None, instance, None, second)
    assert machine.kernel.devices[second['devname']]['name'] == 'eth1'
    # The default route stays where it was.
    assert machine.kernel.devices[second['devname']]['routes'] == []
    hosts = machine.store.directory(instance.uuid) / 'hosts'
    assert '10.1.0.9 mybox' in hosts.read_text()
    instance.info_cache.network_info = model.NetworkInfo([vif, second])
    zun.detach_interface(None, instance, second)
    assert list(machine.kernel.devices) == [vif['devname']]
    assert len(record(machine, instance).addresses) == 1
    assert '10.1.0.9' not in hosts.read_text()


def test_an_interface_that_cannot_be_attached_leaves_nothing(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    instance.info_cache.network_info = model.NetworkInfo([vif])
    machine.switch.fail(ValueError('no database'))
    with pytest.raises(exception.NovaException):
        zun.attach_interface(None, instance, None, make_vif(2))
    assert list(machine.kernel.devices) == list(machine.switch.ports) == [vif['devname']]


def test_a_full_disk_is_told_in_novas_words(zun, machine, vif, monkeypatch):
    """With any other exception nova would leave the port attached."""
    instance = spawn(zun, make_instance(), [])

    def write(record):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(zun._sandboxes.store, 'write', write)
    with pytest.raises(exception.NovaException, match='No space left'):
        zun.attach_interface(None, instance, make_image(), vif)


def test_interfaces_of_an_unknown_sandbox_leave_nothing(zun, machine, vif):
    zun.plug_vifs(make_instance(), [vif])
    zun.detach_interface(None, make_instance(), vif)
    assert machine.leftovers() == {}
