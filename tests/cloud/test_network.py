"""A sandbox has what Neutron says that its ports have, and its containers share it."""

from __future__ import annotations

import ipaddress
import json
import re
import time
import typing

import pytest

from tests.cloud import host, settings
from tests.cloud.cloud import User, Workspace, address, gateway, network_id
from tests.cloud.waiting import wait_until

NGINX = 'http://{}/'


def _fetch(user: User, container_id: str, url: str) -> bool:
    return user.execute(container_id, f'timeout 3 wget -q -O /dev/null {url}')[1] == 0


def _ping(user: User, container_id: str, target: str, *options: str) -> bool:
    return user.execute(container_id, f'ping {" ".join(options)} -c 2 -W 2 {target}')[1] == 0


@pytest.fixture(scope='module')
def web(shared: Workspace, sandbox: str) -> str:
    """A web server in the shared sandbox."""
    return shared.running('nginx', sandbox=sandbox)


class TestInOneSandbox:
    def test_localhost(self, space: Workspace, sandbox: str, web: str) -> None:
        one = space.running(sandbox=sandbox)
        wait_until('nginx', lambda: _fetch(space.user, one, 'http://127.0.0.1/'), timeout=10)
        assert _fetch(space.user, one, 'http://localhost/')
        assert _fetch(space.user, one, NGINX.format(address(space.user, sandbox)))

    def test_processes(self, space: Workspace, sandbox: str, web: str) -> None:
        one = space.running(sandbox=sandbox, command=['sleep', '12345'])
        listing = space.user.shell(one, 'ps')
        assert 'nginx' in listing
        assert 'sleep 12345' in space.user.shell(web, 'ps')
        assert 'pause' in space.user.shell(one, 'cat /proc/1/cmdline')

    def test_shared_memory(self, space: Workspace, sandbox: str) -> None:
        first, second = (space.running(sandbox=sandbox) for _ in range(2))
        space.user.shell(first, 'echo hello > /dev/shm/word')
        assert space.user.shell(second, 'cat /dev/shm/word') == 'hello\n'
        space.user.shell(first, 'rm /dev/shm/word')

    def test_addresses(self, space: Workspace, sandbox: str, web: str) -> None:
        one = space.running(sandbox=sandbox)
        assert space.user.show(one).addresses == space.user.show(web).addresses
        assert space.user.show(one).addresses

    def test_files_cannot_be_written(self, space: Workspace, sandbox: str) -> None:
        one = space.running(sandbox=sandbox)
        for name in ('hosts', 'resolv.conf', 'hostname'):
            assert space.user.execute(one, f'echo x >> /etc/{name}')[1] != 0


def test_name_service_and_hosts_file(space: Workspace) -> None:
    user, name = space.user, space.name('namebox')
    server = space.server(name)
    one = space.running(sandbox=server)
    conf = settings.load()
    assert f'nameserver {conf["PUBLIC_GATEWAY"]}' in user.shell(one, 'cat /etc/resolv.conf')
    hosts = user.shell(one, 'cat /etc/hosts')
    assert re.search(r'^127\.0\.0\.1\s+localhost', hosts, re.MULTILINE)
    own = re.escape(address(user, server))
    assert re.search(rf'^{own}\s.*\b{name}\b', hosts, re.MULTILINE), hosts
    assert user.shell(one, 'cat /etc/hostname').strip() == name
    assert user.shell(one, 'hostname').strip() == name
    assert _ping(user, one, name)


def test_to_the_gateway_and_out(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox)
    assert _ping(space.user, one, gateway(space.user))
    assert _ping(space.user, one, settings.load()['PUBLIC_GATEWAY'])


def test_metadata_service(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox)
    url = 'http://169.254.169.254/openstack/latest/meta_data.json'
    told = json.loads(space.user.shell(one, f'timeout 10 wget -q -O - {url}'))
    assert told['uuid'] == sandbox
    assert told['project_id'] == space.user.project_id


def test_own_group_lets_itself_in(space: Workspace, sandbox: str) -> None:
    """The default group lets in those of the same group; bulk TCP arrives as it was sent."""
    user = space.user
    far = space.server()
    web = space.running('nginx', sandbox=far)
    user.shell(web, 'head -c 5000000 /dev/urandom > /var/www/html/blob')
    (expected, *_) = user.shell(web, 'md5sum < /var/www/html/blob').split()
    one = space.running(sandbox=sandbox)
    target = address(user, far)
    assert _ping(user, one, target)
    fetched = user.shell(one, f'timeout 20 wget -q -O - http://{target}/blob | md5sum')
    assert fetched.split()[0] == expected


def test_another_group_lets_in_what_its_rules_say(space: Workspace, sandbox: str) -> None:
    user = space.user
    closed = space.group()
    name = user.network.get_security_group(closed).name
    far = space.server(security_groups=[{'name': closed}])
    assert name
    space.running('nginx', sandbox=far)
    one = space.running(sandbox=sandbox)
    target = address(user, far)
    assert not _ping(user, one, target)
    assert not _fetch(user, one, NGINX.format(target))
    space.allow(closed, protocol='tcp', port_range_min=80, port_range_max=80)
    wait_until('let in', lambda: _fetch(user, one, NGINX.format(target)), timeout=15, interval=0.5)
    assert not _ping(user, one, target)


def test_security_group_of_a_container(space: Workspace, sandbox: str) -> None:
    user = space.user
    group = space.group({'protocol': 'tcp', 'port_range_min': 80, 'port_range_max': 80})
    web = space.running('nginx', security_groups=[user.network.get_security_group(group).name])
    (port,) = user.network.ports(device_id=web)
    assert port.security_group_ids == [group]
    assert user.show(web).security_groups == [group]
    one = space.running(sandbox=sandbox)
    target = address(user, web)
    wait_until('let in', lambda: _fetch(user, one, NGINX.format(target)), timeout=15)
    assert not _ping(user, one, target)


def test_floating_ip_from_the_host(space: Workspace) -> None:
    user = space.user
    group = space.group(
        {'protocol': 'tcp', 'port_range_min': 80, 'port_range_max': 80}, {'protocol': 'icmp'}
    )
    web = space.running('nginx', security_groups=[group])
    (port,) = user.network.ports(device_id=web)
    public = user.network.find_network('public').id
    floating = user.network.create_ip(floating_network_id=public, port_id=port.id)
    try:
        target = floating.floating_ip_address

        def answers(*command: str) -> bool:
            try:
                host.command(*command)
            except AssertionError:
                return False
            return True

        wait_until('ping', lambda: answers('ping', '-c', '1', '-W', '1', target), timeout=20)
        wait_until(
            'web page',
            lambda: answers('curl', '-sf', '--max-time', '3', NGINX.format(target)),
            timeout=10,
        )
    finally:
        user.network.delete_ip(floating.id)


def _interfaces(user: User, container_id: str) -> dict[str, str]:
    """Return the text of `ip addr` for each device of a container."""
    text = user.shell(container_id, 'ip addr')
    found = {}
    for block in re.split(r'^(?=\d+: )', text, flags=re.MULTILINE):
        if match := re.match(r'\d+: ([^:@]+)', block):
            found[match[1]] = block
    return found


def test_several_ports_with_all_that_neutron_says(space: Workspace) -> None:
    user = space.user
    side = space.new_network(
        '10.31.0.0/24',
        mtu=1380,
        gateway_ip=None,
        host_routes=[{'destination': '192.0.2.0/24', 'nexthop': '10.31.0.9'}],
        # Given to the sandbox, it would be no way to anywhere.
        allocation_pools=[{'start': '10.31.0.10', 'end': '10.31.0.99'}],
    )
    private = network_id(user, 'private')
    server = space.server(networks=[{'uuid': private}, {'uuid': side}])
    one = space.running(sandbox=server)
    devices = _interfaces(user, one)
    ports = {port.network_id: port for port in user.network.ports(device_id=server)}
    for device, network in (('eth0', private), ('eth1', side)):
        port = ports[network]
        assert port.mac_address in devices[device]
        assert f'inet {port.fixed_ips[0]["ip_address"]}/24' in devices[device]
        mtu = user.network.get_network(network).mtu
        assert f'mtu {mtu}' in devices[device]
    assert 'mtu 1380' in devices['eth1']
    routes = user.shell(one, 'ip route')
    assert re.search(r'^192\.0\.2\.0/24 via 10\.31\.0\.9 dev eth1', routes, re.MULTILINE), routes
    assert re.search(r'^default via 10\.20\.0\.1 dev eth0', routes, re.MULTILINE), routes
    assert set(user.show(one).addresses) == {private, side}
    assert _ping(user, one, gateway(user))


def test_the_router_of_a_network(space: Workspace) -> None:
    """A sandbox that others are sent to reaches nothing by itself, but all by its other port."""
    user, inner = space.user, '10.32.0.1'
    side = space.new_network(
        '10.32.0.0/24',
        gateway_ip=inner,
        host_routes=[{'destination': '192.0.2.0/24', 'nexthop': inner}],
    )
    space.new_subnet(side, 'fd32::/64', gateway_ip='fd32::1')
    fixed = [{'ip_address': inner}, {'ip_address': 'fd32::1'}]
    port = space.port(side, fixed_ips=fixed)
    server = space.server(networks=[{'port': port.id}, {'uuid': network_id(user, 'private')}])
    one = space.running(sandbox=server)
    routes = user.shell(one, 'ip route') + user.shell(one, 'ip -6 route')
    assert re.findall(r'^default via (\S+) dev (\S+)', routes, re.M) == [('10.20.0.1', 'eth1')]
    assert '192.0.2.0/24' not in routes
    assert f'inet {inner}/24' in _interfaces(user, one)['eth0']
    assert _ping(user, one, gateway(user))


def test_a_route_that_cannot_be_is_named(space: Workspace) -> None:
    beyond = {'destination': '192.0.2.0/24', 'nexthop': '10.33.0.255'}  # as good as everybody
    side = space.new_network('10.33.0.0/24', host_routes=[beyond])
    server = space.server(networks=[{'uuid': side}], wait=False)
    space.until_server(server, 'ERROR')
    told = str(space.user.compute.get_server(server).fault)
    assert 'route to 192.0.2.0/24 by 10.33.0.255: Invalid argument' in told


def test_interface_that_comes_and_goes(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    side = space.new_network('10.33.0.0/24', gateway_ip=None)
    made = user.compute.create_server_interface(server, net_id=side)
    given = made.fixed_ips[0]['ip_address']
    wait_until('eth1', lambda: 'eth1' in _interfaces(user, one), timeout=30)
    assert f'inet {given}/24' in _interfaces(user, one)['eth1']
    wait_until('its address is told', lambda: side in user.show(one).addresses, timeout=10)
    user.compute.delete_server_interface(made.port_id, server=server)
    wait_until('no eth1', lambda: 'eth1' not in _interfaces(user, one), timeout=30)
    wait_until('nor its address', lambda: side not in user.show(one).addresses, timeout=10)
    assert _ping(user, one, gateway(user))


def test_both_versions_of_the_internet_protocol(space: Workspace) -> None:
    user = space.user
    network = space.new_network('10.32.0.0/24')
    space.new_subnet(
        network, '2001:db8:32::/64', gateway_ip='2001:db8:32::1', dns_nameservers=['2001:db8::53']
    )
    boxes = space.servers(*[{'networks': [{'uuid': network}]}] * 2)
    first, second = (space.running(sandbox=box) for box in boxes)
    six = address(user, boxes[1], version=6)
    assert ipaddress.ip_address(six) in ipaddress.ip_network('2001:db8:32::/64')
    assert f'inet6 {six}/64' in user.shell(second, 'ip addr')
    assert {one['version'] for one in user.show(second).addresses[network]} == {4, 6}
    assert _ping(user, first, address(user, boxes[1]))
    wait_until('ping by IPv6', lambda: _ping(user, first, six, '-6'), timeout=15)
    assert 'default via 2001:db8:32::1' in user.shell(first, 'ip -6 route')
    assert 'nameserver 2001:db8::53' in user.shell(first, 'cat /etc/resolv.conf')


def _free_address(user: User) -> str:
    """Return an address of the network `private` that nobody has, far from the next ones."""
    ports = user.network.ports(network_id=network_id(user, 'private'))
    taken = {fixed['ip_address'] for port in ports for fixed in port.fixed_ips}
    (subnet,) = user.network.subnets(network_id=network_id(user, 'private'))
    hosts = list(ipaddress.ip_network(subnet.cidr).hosts())
    return next(str(one) for one in reversed(hosts) if str(one) not in taken)


def test_fixed_address(space: Workspace) -> None:
    user = space.user
    private, wanted = network_id(user, 'private'), _free_address(user)
    one = space.running(nets=[{'network': 'private', 'v4-fixed-ip': wanted}])
    assert [each['addr'] for each in user.show(one).addresses[private]] == [wanted]
    assert f'inet {wanted}/24' in user.shell(one, 'ip addr')


def test_network_of_the_zun_command(space: Workspace) -> None:
    name, wanted = space.name('net'), _free_address(space.user)
    space.user.cli(
        *('zun', 'run', '--name', name, '--net', f'network=private,v4-fixed-ip={wanted}'),
        *('alpine', 'ip', 'addr'),
    )
    one = space.adopt(space.user.show(name).uuid)
    space.user.wait(one, 'Stopped')
    assert f'{wanted}/24' in space.user.logs(one)


def test_port_of_the_user_outlives_the_container(space: Workspace) -> None:
    user = space.user
    port = space.port(network_id(user, 'private'))
    one = space.running(nets=[{'port': port.id}])
    (shown,) = user.show(one).addresses[port.network_id]
    assert (shown['port'], shown['preserve_on_delete']) == (port.id, True)
    assert user.network.get_port(port.id).device_id == one
    user.containers.delete(one, stop=True)
    user.wait(one, 'gone')
    wait_until('port released', lambda: not user.network.get_port(port.id).device_id, timeout=30)
    assert user.network.get_port(port.id).fixed_ips == port.fixed_ips


def test_port_of_the_user_on_a_server(space: Workspace) -> None:
    user = space.user
    port = space.port(network_id(user, 'private'))
    server = space.server(networks=[{'port': port.id}])
    record = host.sandboxes().read(server)
    assert record is not None
    assert [one.preserve_on_delete for one in record.addresses] == [True]
    space.delete_server(server)
    assert user.network.get_port(port.id).device_id == ''


def test_sandbox_without_a_network(space: Workspace) -> None:
    server = space.server(networks='none')
    one = space.running(sandbox=server)
    assert set(_interfaces(space.user, one)) == {'lo'}
    assert space.user.show(one).addresses == {}


def test_network_is_there_when_the_first_process_starts(space: Workspace) -> None:
    """No start finds a network half made, and none waits longer than it takes."""
    user = space.user
    begin = time.monotonic()
    one = space.run(command=['sh', '-c', f'ip addr; ping -c 1 -W 2 {gateway(user)}'])
    user.wait(one, 'Stopped')
    output = user.logs(one)
    assert '1 packets received' in output, output
    (fixed,) = typing.cast('list[dict[str, str]]', next(iter(user.show(one).addresses.values())))
    assert fixed['addr'] in output
    assert time.monotonic() - begin < 30
