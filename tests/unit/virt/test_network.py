"""Plans for interfaces, from nova's model of the ports."""

import errno

import os_vif.exception
import pyroute2
import pytest
from nova import exception
from nova.network import model

from tests.unit.virt.conftest import make_instance, make_subnet, make_vif
from zun_virt import network
from zun_virt.privsep import RouteRefused, interfaces


def plans(*vifs):
    return [(plan.addresses, plan.routes, plan.accept_ra) for plan in network.plan(vifs)]


@pytest.mark.parametrize(
    ('subnets', 'addresses', 'routes', 'accept_ra'),
    [
        ([], (), (), False),
        ([make_subnet(ips=[])], (), (('0.0.0.0/0', '10.0.0.1'),), False),
        (
            [make_subnet(ips=['10.0.0.5', '10.0.0.6'])],
            ('10.0.0.5/24', '10.0.0.6/24'),
            (('0.0.0.0/0', '10.0.0.1'),),
            False,
        ),
        ([make_subnet(gateway=None, ips=['10.0.0.5'])], ('10.0.0.5/24',), (), False),
        (
            [make_subnet('fd00::/64', 'fe80::1', ['fd00::5'])],
            ('fd00::5/64',),
            (('::/0', 'fe80::1'),),
            False,
        ),
        # A router that Neutron knows nothing of.
        ([make_subnet('fd00::/64', None, ['fd00::5'])], ('fd00::5/64',), (), True),
        (
            [make_subnet(ips=['10.0.0.5'], routes=[('169.254.169.254/32', '10.0.0.2')])],
            ('10.0.0.5/24',),
            (('169.254.169.254/32', '10.0.0.2'), ('0.0.0.0/0', '10.0.0.1')),
            False,
        ),
        (
            [
                make_subnet(ips=['10.0.0.5']),
                make_subnet('fd00::/64', 'fd00::1', ['fd00::5']),
                make_subnet('10.9.0.0/24', '10.9.0.1', ['10.9.0.5']),
            ],
            ('10.0.0.5/24', 'fd00::5/64', '10.9.0.5/24'),
            (('0.0.0.0/0', '10.0.0.1'), ('::/0', 'fd00::1')),
            False,
        ),
    ],
)
def test_plan_of_one_port(subnets, addresses, routes, accept_ra):
    assert plans(make_vif(subnets=subnets)) == [(addresses, routes, accept_ra)]


def test_the_first_port_with_a_gateway_has_the_default_route():
    without = make_vif(1, subnets=[make_subnet(gateway=None, ips=['10.0.0.5'])])
    second, third = (
        make_vif(n, subnets=[make_subnet(f'10.{n}.0.0/24', f'10.{n}.0.1', [f'10.{n}.0.5'])])
        for n in (2, 3)
    )
    routes = [routes for _, routes, _ in plans(without, second, third)]
    assert routes == [(), (('0.0.0.0/0', '10.2.0.1'),), ()]


@pytest.mark.parametrize(
    ('net', 'length', 'default'),
    [('10.1.0.', '/24', '0.0.0.0/0'), ('fd00:1::', '/64', '::/0')],
)
def test_the_router_of_a_subnet_is_not_its_own_gateway(net, length, default):
    own, other = f'{net}1', f'{net}3'
    routes = [(f'{net}64/30', own), (f'{net}68/30', other)]
    inner = make_subnet(f'{net}0{length}', own, [own], routes=routes)
    outer = make_subnet(f'{net}0{length}', f'{net}9', [f'{net}5'])
    planned = [routes for _, routes, _ in plans(*map(make_vif, (1, 2), ([inner], [outer])))]
    assert planned == [((f'{net}68/30', other),), ((default, f'{net}9'),)]


@pytest.mark.parametrize('own', ['fd00:0:0::1', 'fe80::f816:3eff:fe00:1'])
def test_an_own_gateway_may_be_written_differently_or_of_the_link(own):
    subnet = make_subnet('fd00::/64', own, ['fd00::1'])
    assert plans(make_vif(subnets=[subnet])) == [(('fd00::1/64',), (), False)]


def test_an_own_address_on_another_network_is_no_gateway_of_this():
    first, second = (make_vif(n, subnets=[make_subnet(ips=[f'10.0.0.{n}'])]) for n in (5, 1))
    second['network']['id'] = '22222222-2222-3333-4444-555555555555'
    assert [routes for _, routes, _ in plans(first, second)] == [(('0.0.0.0/0', '10.0.0.1'),), ()]


@pytest.mark.parametrize(
    ('code', 'told'),
    [(errno.EINVAL, RouteRefused), (errno.ENETDOWN, pyroute2.NetlinkError)],
)
def test_only_what_is_wrong_with_a_route_is_called_so(code, told):
    class Kernel:
        def route(self, *words, **request):
            raise pyroute2.NetlinkError(code)

    with pytest.raises(told):
        interfaces._set_route(Kernel(), 7, '192.0.2.0/24', '10.0.0.9')


def test_a_port_without_mtu_routes_and_label_can_be_planned():
    subnet = model.Subnet(
        cidr='10.0.0.0/24',
        version=4,
        gateway=model.IP(address='10.0.0.1'),
        ips=[model.FixedIP(address='10.0.0.5')],
        dns=None,
        routes=None,
    )
    bare = model.Network(id='n', bridge='br-int', label=None, subnets=[subnet])
    vif = make_vif(network=bare, devname=None)
    plan = network.plan([vif])[0]
    assert plan.mtu is None
    assert plan.device == f'tap{vif["id"]}'[:14]
    assert network.resolv_conf([vif]) == ''


def test_addresses_tell_what_the_agent_shows():
    vif = make_vif(subnets=[make_subnet('fd00::/64', None, ['fd00::5'])], preserve_on_delete=True)
    address = network.addresses([vif])[0]
    assert (address.address, address.prefix_length, address.version) == ('fd00::5', 64, 6)
    assert (address.port_id, address.mac) == (vif['id'], vif['address'])
    assert address.preserve_on_delete is True


def test_resolv_conf_has_each_server_once():
    first = make_vif(1, subnets=[make_subnet(dns=['1.1.1.1', '8.8.8.8'])])
    second = make_vif(2, subnets=[make_subnet(dns=['8.8.8.8', 'fd00::53'])])
    assert network.resolv_conf([first, second]) == (
        'nameserver 1.1.1.1\nnameserver 8.8.8.8\nnameserver fd00::53\n'
    )


@pytest.mark.parametrize(
    ('vifs', 'lines'),
    [
        ([], ['127.0.1.1 box']),
        ([make_vif()], ['10.0.0.5 box']),
        ([make_vif(), make_vif(2)], ['10.0.0.5 box', '10.0.0.6 box']),
    ],
)
def test_hosts_file_knows_the_own_name(vifs, lines):
    text = network.hosts_file('box', network.addresses(vifs))
    assert text.startswith(network.HOSTS_HEADER)
    assert text.removeprefix(network.HOSTS_HEADER).splitlines() == lines


@pytest.mark.parametrize('kind', ['bridge', 'hw_veb', 'binding_failed', 'unbound', 'nonsense'])
def test_what_a_sandbox_cannot_have_is_refused_and_no_hindrance(machine, kind):
    wiring = network.Network()
    vif = make_vif(type=kind)
    with pytest.raises(exception.VirtualInterfacePlugException):
        wiring.plug(make_instance(), [vif], 1000, fresh=True)
    wiring.unplug(make_instance(), [vif])
    assert machine.kernel.devices == machine.switch.ports == {}


def test_a_hybrid_port_is_enslaved_to_its_bridge_and_taken_away_first(machine):
    wiring = network.Network()
    vif = make_vif(details={'port_filter': True, 'ovs_hybrid_plug': True})
    wiring.plug(make_instance(), [vif], 1000, fresh=True)
    assert machine.kernel.bridged == {vif['devname']: f'qbr{vif["id"]}'[:14]}
    wiring.unplug(make_instance(), [vif])
    assert machine.kernel.devices == {}


def test_a_tap_device_is_never_asked_for(machine):
    vif = make_vif(details={'bridge_name': 'br-int', 'ovs_create_tap': True})
    assert not network._osvif(vif).port_profile.create_tap


def test_unplugging_goes_on_after_a_failure(machine):
    wiring = network.Network()
    vifs = [make_vif(1), make_vif(2)]
    wiring.plug(make_instance(), vifs, 1000, fresh=True)
    machine.switch.fail(OSError(5, 'no database'))
    with pytest.raises(exception.VirtualInterfacePlugException, match=vifs[0]['id']):
        wiring.unplug(make_instance(), vifs)
    assert list(machine.switch.ports) == [vifs[0]['devname']]


@pytest.mark.parametrize(
    'failure',
    [
        os_vif.exception.NetworkInterfaceNotFound(interface='tap1'),
        pyroute2.NetlinkError(errno.ENODEV, 'No such device'),
    ],
)
def test_a_device_that_goes_by_itself_is_no_failure_to_unplug_it(machine, failure):
    wiring = network.Network()
    vif = make_vif()
    wiring.plug(make_instance(), [vif], 1000, fresh=True)
    machine.switch.fail(failure)
    wiring.unplug(make_instance(), [vif])
    assert machine.switch.ports == {}
