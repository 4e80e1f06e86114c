"""Ports that change while their sandbox runs: what is compared, and what follows."""

import pytest
from nova import exception
from nova.network import model

from tests.unit.virt.conftest import make_image, make_instance, make_subnet, make_vif
from zun_virt import ports, sandbox

SUBNET = {
    'id': 's1',
    'cidr': '10.0.0.0/24',
    'gateway_ip': '10.0.0.1',
    'dns_nameservers': ['8.8.8.8'],
    'enable_dhcp': True,
    'host_routes': [{'destination': '192.0.2.0/24', 'nexthop': '10.0.0.9'}],
}


def neutron_port(vif, *addresses, **fields):
    fixed = [{'subnet_id': 's1', 'ip_address': address} for address in addresses]
    return {'id': vif['id'], 'device_id': 'i1', 'network_id': 'n1', 'fixed_ips': fixed, **fields}


def cached_vif(**subnet):
    spec = {'ips': ['10.0.0.5'], 'routes': [('192.0.2.0/24', '10.0.0.9')], **subnet}
    return make_vif(subnets=[make_subnet(**spec)])


@pytest.mark.parametrize(
    ('addresses', 'subnet', 'differs'),
    [
        (['10.0.0.5'], {}, False),
        (['10.0.0.6'], {}, True),
        (['10.0.0.5', '10.0.0.6'], {}, True),
        ([], {}, True),
        (['10.0.0.5'], {'gateway_ip': None}, True),
        (['10.0.0.5'], {'dns_nameservers': ['9.9.9.9']}, True),
        (['10.0.0.5'], {'dns_nameservers': []}, True),
        (['10.0.0.5'], {'host_routes': []}, True),
        # Not asked for together with the ports: it came in between.
        (['10.0.0.5'], {'id': 'another'}, True),
    ],
)
def test_what_neutron_says_is_compared_with_novas_cache(addresses, subnet, differs):
    vif = cached_vif()
    told = SUBNET | subnet
    known = ports.Known({'i1': [neutron_port(vif, *addresses)]}, {told['id']: told}, {})
    assert known.differs('i1', [vif]) is differs


def test_a_port_that_the_cache_lacks_is_a_difference():
    vif = cached_vif()
    known = ports.Known({'i1': [neutron_port(vif, '10.0.0.5')]}, {'s1': SUBNET}, {})
    assert known.differs('i1', [])
    assert not known.differs('i2', [vif])
    assert known.missing('i2', [vif]) == [vif]
    assert known.missing('i1', [vif]) == []


def test_a_subnet_without_name_servers_has_its_dhcp_server():
    vif = cached_vif(dns=())
    bare = SUBNET | {'dns_nameservers': []}
    known = ports.Known({'i1': [neutron_port(vif, '10.0.0.5')]}, {'s1': bare}, {'s1': '10.0.0.2'})
    assert known.differs('i1', [vif])
    vif['network']['subnets'][0]['meta'] = {'enable_dhcp': True, 'dhcp_server': '10.0.0.2'}
    assert not known.differs('i1', [vif])


def test_names_are_those_that_somebody_gave():
    first, second = make_vif(1), make_vif(2)
    given = {'dns_assignment': [{'ip_address': '10.0.0.5', 'fqdn': 'web.example.org.'}]}
    default = {'dns_assignment': [{'ip_address': '10.0.0.6', 'fqdn': 'host-10-0-0-6.x.'}]}
    known = ports.Known(
        {
            'i1': [
                neutron_port(first, '10.0.0.5', dns_name='web', **given),
                neutron_port(second, '10.0.0.6', dns_name='', **default),
            ]
        },
        {},
        {},
    )
    assert known.names('i1') == {(first['id'], '10.0.0.5'): 'web.example.org'}


@pytest.fixture
def server(zun, machine):
    """A server that runs and has one port, which Neutron has just so."""
    instance = make_instance(vm_state='building', task_state=None)
    vif = make_vif()
    zun.spawn(None, instance, make_image(), None, None, None, network_info=[vif])
    instance.vm_state = 'active'
    instance.info_cache.network_info = model.NetworkInfo([vif])
    machine.ports.tell(instance, vif)
    return instance


def changed(*ips, **subnet):
    """Return the server's port with other addresses."""
    return make_vif(subnets=[make_subnet(ips=list(ips), **subnet)])


def file(machine, instance, name):
    return (machine.store.directory(instance.uuid) / name).read_text()


def devices(machine):
    return {entry['name']: entry for entry in machine.kernel.devices.values()}


def test_nothing_is_done_while_nothing_changes(zun, machine, server):
    calls = len(machine.docker.calls)
    zun._follow_ports()
    zun._follow_ports()
    assert machine.ports.refreshed == []
    assert len(machine.docker.calls) == calls


def test_a_new_address_is_taken_over(zun, machine, server):
    device = devices(machine)['eth0']['made']
    machine.ports.tell(server, changed('10.0.0.77', dns=['9.9.9.9']))
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.77/24']
    assert devices(machine)['eth0']['made'] == device
    assert '10.0.0.77 mybox\n' in file(machine, server, 'hosts')
    assert file(machine, server, 'resolv.conf') == 'nameserver 9.9.9.9\n'
    found = machine.store.read(server.uuid)
    assert [one.address for one in found.addresses] == ['10.0.0.77']
    assert found.state is sandbox.State.READY
    assert machine.ports.refreshed == [server.uuid]


def test_what_nova_has_noticed_already_is_taken_over(zun, machine, server):
    server.info_cache.network_info = model.NetworkInfo([changed('10.0.0.78')])
    machine.ports.tell(server, changed('10.0.0.78'))
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.78/24']
    assert machine.ports.refreshed == []


def test_an_address_that_others_gave_is_left(zun, machine, server):
    devices(machine)['eth0']['addresses'].append('10.0.0.200/24')
    machine.ports.tell(server, changed('10.0.0.77'))
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.77/24', '10.0.0.200/24']


def test_a_name_is_taken_over_and_kept_over_a_restart(zun, machine, server):
    (vif,) = server.get_network_info()
    machine.ports.name(vif, 'web.example.org')
    zun._follow_ports()
    line = '10.0.0.5 web.example.org web mybox\n'
    assert line in file(machine, server, 'hosts')
    zun.reboot(None, server, [vif], 'HARD')
    assert line in file(machine, server, 'hosts')
    machine.ports.tell(server, vif)
    zun._follow_ports()
    assert '10.0.0.5 mybox\n' in file(machine, server, 'hosts')


def test_a_stopped_sandbox_shows_what_it_will_have(zun, machine, server):
    zun.power_off(server)
    server.vm_state = 'stopped'
    machine.ports.tell(server, changed('10.0.0.77'))
    zun._follow_ports()
    found = machine.store.read(server.uuid)
    assert [one.address for one in found.addresses] == ['10.0.0.77']
    assert found.state is sandbox.State.STOPPED
    assert machine.kernel.devices == {}


def test_a_port_deleted_behind_novas_back_is_taken_away(zun, machine, server):
    (first,) = server.get_network_info()
    second = make_vif(2)
    server.info_cache.network_info = model.NetworkInfo([first, second])
    machine.ports.tell(server, first, second)
    zun._follow_ports()
    assert set(devices(machine)) == {'eth0', 'eth1'}
    machine.ports.tell(server, first)
    zun._follow_ports()
    assert set(devices(machine)) == {'eth0'}
    assert set(machine.switch.ports) == {first['devname']}
    assert len(machine.store.read(server.uuid).addresses) == 1


def test_a_port_that_nova_forgot_is_taken_away(zun, machine, server):
    (first,) = server.get_network_info()
    machine.ports.tell(server, first, make_vif(2))
    zun._follow_ports()
    assert set(devices(machine)) == {'eth0', 'eth1'}
    server.info_cache.network_info = model.NetworkInfo([first])
    machine.ports.tell(server, first)
    zun._follow_ports()
    assert set(devices(machine)) == {'eth0'}
    assert set(machine.switch.ports) == {first['devname']}


def test_what_nova_forgot_goes_with_the_server(zun, machine, server):
    (first,) = server.get_network_info()
    machine.ports.tell(server, first, make_vif(2))
    zun._follow_ports()
    zun.destroy(None, server, [first])
    assert machine.leftovers() == {}


def test_a_port_that_nova_gives_up_does_not_come_back(zun, machine, server):
    (first,) = server.get_network_info()
    second = make_vif(2)
    machine.ports.tell(server, first, second)
    zun._follow_ports()
    zun.detach_interface(None, server, second)
    # Neutron has not been asked yet to give it up.
    zun._follow_ports()
    assert set(devices(machine)) == {'eth0'}
    machine.ports.tell(server, first)
    zun._follow_ports()
    zun.attach_interface(None, server, None, second)
    assert set(devices(machine)) == {'eth0', 'eth1'}


@pytest.mark.parametrize('state', [{'task_state': 'powering-off'}, {'vm_state': 'error'}])
def test_what_nova_is_at_work_on_is_left_alone(zun, machine, server, state):
    for name, value in state.items():
        setattr(server, name, value)
    machine.ports.tell(server, changed('10.0.0.77'))
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.5/24']


def test_nova_is_not_asked_for_ever_about_what_it_sees_otherwise(zun, machine, server):
    (vif,) = server.get_network_info()
    machine.ports.tell(server, changed('10.0.0.77'))
    machine.ports.truth[server.uuid] = [vif]
    for _ in range(3):
        zun._follow_ports()
    assert machine.ports.refreshed == [server.uuid]


def test_a_pass_that_fails_is_made_good_by_the_next(zun, machine, server):
    machine.ports.tell(server, changed('10.0.0.77'))
    machine.ports.failures = ['no answer']
    zun._follow_ports()
    machine.kernel.fail('plug', OSError(1, 'not now'))
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.5/24']
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.77/24']


def test_one_server_does_not_hold_up_the_others(zun, machine, server):
    broken = make_instance(vm_state='active', task_state=None)
    broken_vif = make_vif(2, type='nonsense')
    zun.spawn(None, broken, make_image(), None, None, None, network_info=[])
    machine.ports.instances = {broken.uuid: broken, **machine.ports.instances}
    machine.ports.tell(broken, broken_vif)
    machine.ports.tell(server, changed('10.0.0.77'))
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.77/24']


def test_only_novas_exceptions_come_out_of_an_attachment(zun, machine, server):
    before = file(machine, server, 'hosts'), machine.store.read(server.uuid)
    second = make_vif(2)
    for step in (
        lambda: machine.kernel.fail('plug', OSError(1, 'no')),
        lambda: machine.switch.fail(ValueError('no database')),
        lambda: machine.docker.fail('inspect_container', ValueError('nonsense')),
        lambda: machine.ports.failures.append('no answer'),
    ):
        step()
        with pytest.raises(exception.NovaException):
            zun.attach_interface(None, server, None, second)
        assert set(devices(machine)) == {'eth0'}
        assert (file(machine, server, 'hosts'), machine.store.read(server.uuid)) == before


def test_a_port_that_no_sandbox_can_have_is_refused_even_while_it_is_stopped(zun, machine, server):
    zun.power_off(server)
    with pytest.raises(exception.VirtualInterfacePlugException, match='hw_veb'):
        zun.attach_interface(None, server, None, make_vif(2, type='hw_veb'))


def test_interfaces_of_a_stopped_sandbox_are_told_at_once(zun, machine, server):
    zun.power_off(server)
    second = make_vif(2)
    zun.attach_interface(None, server, None, second)
    assert len(machine.store.read(server.uuid).addresses) == 2
    assert '10.0.0.6 mybox' in file(machine, server, 'hosts')
    assert machine.kernel.devices == {}
    zun.detach_interface(None, server, second)
    assert len(machine.store.read(server.uuid).addresses) == 1


def test_two_attachments_at_a_time_both_stay(zun, machine, server):
    """Each call brings nova's cache as it was before the other one."""
    (first,) = server.get_network_info()
    second, third = make_vif(2), make_vif(3)
    machine.ports.tell(server, first, second, third)
    machine.ports.refresh(server)
    alone = make_instance(uuid=server.uuid, vm_state='active')
    for vif in (second, third):
        alone.info_cache.network_info = model.NetworkInfo([first, vif])
        zun.attach_interface(None, alone, None, vif)
    assert set(devices(machine)) == {'eth0', 'eth1', 'eth2'}
    assert len(machine.store.read(server.uuid).addresses) == 3
