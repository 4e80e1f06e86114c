"""Interfaces that come, go and change while their sandbox runs, and what Neutron lets through."""

from __future__ import annotations

import time
import typing

import pytest

from tests.cloud import host
from tests.cloud.cloud import Workspace
from tests.cloud.users import User
from tests.cloud.waiting import wait_until

FOLLOWS = 60.0  # seconds within which a sandbox has what has changed in Neutron


def _addresses(user: User, container_id: str) -> dict[str, set[str]]:
    """Return the addresses that a container sees, without those of the link, by device."""
    found: dict[str, set[str]] = {}
    for line in user.shell(container_id, 'ip -o addr').splitlines():
        _, device, _, address, *rest = line.split()
        if device != 'lo' and 'link' not in rest[rest.index('scope') + 1]:
            found.setdefault(device, set()).add(address.partition('/')[0])
    return found


def _devices(user: User, container_id: str) -> set[str]:
    return set(user.shell(container_id, 'ls /sys/class/net').split()) - {'lo'}


def _told(user: User, container_id: str) -> set[str]:
    """Return the addresses that the container API shows."""
    shown = user.show(container_id).addresses
    return {one['addr'] for addresses in shown.values() for one in addresses}


def _recorded(server: str) -> set[str]:
    record = host.sandboxes().read(server)
    assert record is not None
    return {one.address for one in record.addresses}


def _fixed(port: typing.Any) -> set[str]:
    return {one['ip_address'] for one in port.fixed_ips}


def _pings(user: User, container_id: str, target: str) -> bool:
    return user.execute(container_id, f'ping -c 1 -W 1 {target}')[1] == 0


def _give(server: str, address: str) -> None:
    """Give a sandbox an address that its port does not have, as root of the host can."""
    pid = str(host.pause(server).attrs['State']['Pid'])
    host.command('nsenter', '-t', pid, '-n', 'ip', 'addr', 'add', f'{address}/32', 'dev', 'eth0')


def test_by_port_and_by_fixed_address(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    first = _addresses(user, one)
    side = space.new_network('10.41.0.0/24', gateway_ip=None)
    port = space.port(side)
    user.compute.create_server_interface(server, port_id=port.id)
    made = user.compute.create_server_interface(
        server, net_id=side, fixed_ips=[{'ip_address': '10.41.0.77'}]
    )
    assert _addresses(user, one) == {**first, 'eth1': _fixed(port), 'eth2': {'10.41.0.77'}}
    for address in (*_fixed(port), '10.41.0.77'):
        assert f'\n{address} ' in user.shell(one, 'cat /etc/hosts')
    everything = set.union(*_addresses(user, one).values())
    wait_until('told', lambda: _told(user, one) == everything, timeout=10)
    for attached in (port.id, made.port_id):
        user.compute.delete_server_interface(attached, server=server)
    wait_until('both gone', lambda: _addresses(user, one) == first, timeout=30)
    assert '10.41.0.' not in user.shell(one, 'cat /etc/hosts')
    wait_until('told', lambda: _told(user, one) == first['eth0'], timeout=10)
    wait_until('released', lambda: not user.network.get_port(port.id).device_id, timeout=20)


def test_while_the_server_is_stopped(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    first = _told(user, one)
    side = space.new_network('10.42.0.0/24', gateway_ip=None)
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    made = user.compute.create_server_interface(server, net_id=side)
    given = {one['ip_address'] for one in made.fixed_ips}
    assert _recorded(server) == first | given
    wait_until('told', lambda: _told(user, one) == first | given, timeout=10)
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert _addresses(user, one) == {'eth0': first, 'eth1': given}
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    user.compute.delete_server_interface(made.port_id, server=server)
    wait_until('told', lambda: _told(user, one) == first, timeout=30)


def test_while_the_server_is_paused(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    first = _addresses(user, one)
    side = space.new_network('10.48.0.0/24', gateway_ip=None)
    user.compute.pause_server(server)
    space.until_server(server, 'PAUSED')
    made = user.compute.create_server_interface(server, net_id=side)
    given = {one['ip_address'] for one in made.fixed_ips}
    wait_until('told', lambda: _told(user, one) == first['eth0'] | given, timeout=10)
    assert {found.status for found in host.containers(server)} == {'paused'}
    user.compute.unpause_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert _addresses(user, one) == {**first, 'eth1': given}
    user.compute.pause_server(server)
    space.until_server(server, 'PAUSED')
    user.compute.delete_server_interface(made.port_id, server=server)
    wait_until('told', lambda: _told(user, one) == first['eth0'], timeout=30)
    user.compute.unpause_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert _addresses(user, one) == first


def test_every_way_to_an_address(space: Workspace) -> None:
    """IPv4, and IPv6 by router advertisement and by DHCPv6: Neutron's data say which."""
    user = space.user
    network = space.new_network('10.43.0.0/24', gateway_ip=None)
    for mode, cidr in (('slaac', '2001:db8:43::/64'), ('dhcpv6-stateful', '2001:db8:44::/64')):
        space.new_subnet(
            network, cidr, is_dhcp_enabled=True, ipv6_address_mode=mode, ipv6_ra_mode=mode
        )
    boxes = space.servers(*[{'networks': [{'uuid': network}]}] * 2)
    first, second = (space.running(sandbox=box) for box in boxes)
    (port,) = user.network.ports(device_id=boxes[1])
    wanted = _fixed(port)
    assert len(wanted) == 3
    assert _addresses(user, second) == {'eth0': wanted}
    for address in wanted:
        wait_until(f'ping {address}', lambda it=address: _pings(user, first, it), timeout=15)


def test_what_neutron_filters(space: Workspace) -> None:
    """Of an address that a port does not have, nothing passes, unless the port says so."""
    user, side = space.user, space.new_network('10.45.0.0/24', gateway_ip=None)
    pair = [{'ip_address': '10.45.0.200'}]
    ports = [space.port(side, allowed_address_pairs=pairs) for pairs in (pair, [])]
    boxes = space.servers(*({'networks': [{'port': port.id}]} for port in ports))
    one, other = (space.running(sandbox=box) for box in boxes)
    for box, address in zip(boxes, ('10.45.0.200', '10.45.0.201'), strict=True):
        _give(box, address)
    near = {'eth0': {*_fixed(ports[0]), '10.45.0.200'}}
    assert _addresses(user, one) == near
    wait_until('the pair passes', lambda: _pings(user, other, '10.45.0.200'), timeout=15)
    assert not _pings(user, one, '10.45.0.201')
    user.network.update_port(ports[1], security_group_ids=[], is_port_security_enabled=False)
    wait_until('without security', lambda: _pings(user, one, '10.45.0.201'), timeout=20)
    # What somebody gave a sandbox is not Neutron's to take.
    user.network.update_port(ports[0], name='renamed')
    assert _addresses(user, one) == near


def test_what_changes_in_neutron(space: Workspace) -> None:
    """Running containers see it without a restart: address, name, name server, deletion."""
    user, side = space.user, space.new_network('10.46.0.0/24', gateway_ip=None)
    port, doomed = space.port(side), space.port(side)
    server = space.server(networks=[{'port': port.id}, {'port': doomed.id}])
    one = space.running(sandbox=server)
    began = host.pause(server).attrs['State']['StartedAt']
    (subnet,) = user.network.subnets(network_id=side)
    user.network.update_port(port, fixed_ips=[{'ip_address': '10.46.0.99'}], dns_name='web')
    user.network.update_subnet(subnet, dns_nameservers=['198.51.100.53'])
    space.admin.network.delete_port(doomed)
    changed = time.monotonic()

    def followed() -> bool:
        return (
            _addresses(user, one) == {'eth0': {'10.46.0.99'}}
            and _devices(user, one) == {'eth0'}
            and '\n10.46.0.99 web.zun.test web ' in user.shell(one, 'cat /etc/hosts')
            and user.shell(one, 'cat /etc/resolv.conf') == 'nameserver 198.51.100.53\n'
        )

    wait_until('followed', followed, timeout=FOLLOWS, interval=0.5)
    print(f'followed after {time.monotonic() - changed:.1f} s')
    wait_until('told', lambda: _told(user, one) == {'10.46.0.99'}, timeout=10)
    assert _recorded(server) == {'10.46.0.99'}
    assert host.pause(server).attrs['State']['StartedAt'] == began
    assert user.status(one) == 'Running'


@pytest.mark.alone
def test_limits_of_bandwidth(space: Workspace) -> None:
    """What a sandbox sends is limited; what it gets is where Neutron's own means see it."""
    user, admin, limit = space.user, space.admin, 8000  # kbit/s
    policy = admin.network.create_qos_policy(name=space.name('qos'), shared=True)
    space.finally_do(admin.network.delete_qos_policy, policy.id)
    side = space.new_network('10.47.0.0/24', gateway_ip=None)
    port = space.port(side)
    ways = {'port': port.id}, {'uuid': side}
    slow, fast = space.servers(*({'networks': [way]} for way in ways))
    web, other = space.running('nginx', sandbox=slow), space.running(sandbox=fast)
    user.shell(web, 'head -c 1500000 /dev/urandom > /var/www/html/blob')
    (target,) = _fixed(port)

    def speed() -> float:
        """Return at how many kbit/s the limited one sends."""
        begin = time.monotonic()
        user.shell(other, f'timeout 40 wget -q -O /dev/null http://{target}/blob')
        return 1_500_000 * 8 / 1000 / (time.monotonic() - begin)

    wait_until('served', lambda: _pings(user, other, target), timeout=15)
    free = speed()
    assert free > 2 * limit
    admin.network.create_qos_bandwidth_limit_rule(
        policy, max_kbps=limit, max_burst_kbps=limit // 10, direction='egress'
    )
    user.network.update_port(port, qos_policy_id=policy.id)
    wait_until('limited', lambda: speed() < 1.3 * limit, timeout=40, interval=1)
    limited = speed()
    print(f'kbit/s: free {free:.0f}, with a limit of {limit} {limited:.0f}')
    assert 0.2 * limit < limited < 1.3 * limit
