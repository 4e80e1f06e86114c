"""Sandboxes and virtual machines on one host, by two nova-computes that share nothing."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import typing
from collections.abc import Iterator

import pytest

from tests.cloud import faults, host, settings
from tests.cloud.cloud import SMALL, User, Workspace, address
from tests.cloud.waiting import wait_until

pytestmark = pytest.mark.alone

MACHINE, PLAIN = 'm1.micro', 'plain'
CONTROL = 'br-int-vm'  # of the machines' agent
BOOT = 90.0  # seconds until a guest has run its user data, with no help of the processor
INSTALL = 900.0  # seconds: a machine without them downloads QEMU, libvirt and a kernel first
WEB = {'protocol': 'tcp', 'port_range_min': 80, 'port_range_max': 80}
PING = {'protocol': 'icmp'}
# What the guest of vm-host does: it says what it reaches, again and again.
TELL = """
round=0
while :; do
    round=$((round + 1)) ping=no web=no
    ping -c 1 -W 1 {0} >/dev/null && ping=yes
    timeout 2 wget -q -O /dev/null http://{0}/ && web=yes
    echo "round $round: ping $ping, web $web"
    sleep 0.5
done
"""


@pytest.fixture(scope='module', autouse=True)
def vm_host(module_leaves_nothing: None, admin: User) -> Iterator[str]:
    """The host of virtual machines: its name."""
    name = settings.load()['VM_HOST']

    def up() -> bool:
        services = admin.compute.services(binary='nova-compute', host=name)
        return [service.state for service in services] == ['up']

    with contextlib.ExitStack() as stack:
        stack.callback(settings.allinone, 'vm-host', 'down')
        settings.allinone('vm-host', 'up', timeout=INSTALL)
        wait_until(f'{name} up', up, timeout=60)
        yield name
    assert not list(admin.compute.services(host=name))
    assert not list(admin.network.agents(host=name))


@pytest.fixture(scope='module')
def network(shared: Workspace) -> str:
    """A network that both hosts' agents can wire: a VLAN of what both their bridges are on."""
    return shared.new_network('10.51.0.0/24', vlan_of='public', is_dhcp_enabled=True)


class Groups:
    """Security groups of the sandbox and of the machine, which let in nothing at first."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._ids = {kind: space.group() for kind in ('sandbox', 'machine')}
        self._rules: dict[str, list[str]] = {kind: [] for kind in self._ids}

    def __getitem__(self, kind: str) -> str:
        return self._ids[kind]

    def only(self, kind: str, *rules: dict[str, typing.Any]) -> None:
        """Let in that and nothing else, whatever another test has let in."""
        while self._rules[kind]:
            self._space.user.network.delete_security_group_rule(self._rules[kind].pop())
        for rule in rules:
            self._rules[kind].append(self._space.allow(self._ids[kind], **rule))


@pytest.fixture(scope='module')
def groups(shared: Workspace) -> Groups:
    """The security groups of both."""
    return Groups(shared)


@pytest.fixture(scope='module')
def box(shared: Workspace, network: str, groups: Groups) -> str:
    """A sandbox on that network, with a web server."""
    made = shared.server(
        networks=[{'uuid': network}], security_groups=[{'name': groups['sandbox']}]
    )
    shared.running('nginx', sandbox=made)
    return made


@pytest.fixture(scope='module')
def prober(shared: Workspace, box: str) -> str:
    """A container in that sandbox."""
    return shared.running(sandbox=box)


@pytest.fixture(scope='module')
def machine(shared: Workspace, network: str, groups: Groups, box: str) -> str:
    """A virtual machine on that network that has begun to say what of the sandbox it reaches."""
    script = TELL.format(address(shared.user, box))
    made = shared.server(
        flavor=MACHINE,
        image='machine',
        networks=[{'uuid': network}],
        security_groups=[{'name': groups['machine']}],
        user_data=base64.b64encode(script.encode()).decode(),
    )
    wait_until(
        'the user data of the guest',
        lambda: _rounds(shared, made),
        timeout=BOOT,
        interval=1,
        explain=lambda: _console(shared, made)[-3000:],
    )
    return made


def _host(space: Workspace, server: str) -> str | None:
    return space.admin.compute.get_server(server).compute_host


def _console(space: Workspace, machine: str) -> str:
    return str(space.user.compute.get_server_console_output(machine)['output'])


def _rounds(space: Workspace, machine: str) -> list[tuple[str, ...]]:
    told = re.findall(
        r'^round (\d+): ping (yes|no), web (yes|no)\s*$', _console(space, machine), re.M
    )
    return [tuple(one) for one in told]


def _reaches(space: Workspace, machine: str, *, ping: str, web: str) -> None:
    """Wait until the machine says so twice, of what it began to look at after now."""
    before = int(_rounds(space, machine)[-1][0])

    def agrees() -> bool:
        after = [one[1:] for one in _rounds(space, machine) if int(one[0]) > before + 1]
        return after[-2:] == [(ping, web)] * 2

    wait_until(
        f'ping {ping}, web {web}',
        agrees,
        timeout=25,
        interval=0.5,
        explain=lambda: _console(space, machine)[-1000:],
    )


def _ping(user: User, container: str, target: str) -> bool:
    return user.execute(container, f'ping -c 1 -W 2 {target}')[1] == 0


def _fetch(user: User, container: str, target: str) -> bool:
    return user.execute(container, f'timeout 4 wget -q -O - http://{target}/') == (
        'a virtual machine\n',
        0,
    )


class TestOnOneNetwork:
    """Both reach each other where both security groups let them, and nowhere else."""

    def test_a_machine_boots_with_its_address(
        self, space: Workspace, machine: str, vm_host: str, network: str
    ) -> None:
        assert _host(space, machine) == vm_host
        given = address(space.user, machine)
        assert re.search(rf'^guest: address {re.escape(given)}\s*$', _console(space, machine), re.M)
        (port,) = space.admin.network.ports(device_id=machine)
        assert port.binding_host_id == vm_host
        assert port.binding_vif_details['bridge_name'] == CONTROL

    def test_the_sandbox_lets_in_what_its_group_says(
        self, space: Workspace, machine: str, groups: Groups
    ) -> None:
        groups.only('sandbox')
        _reaches(space, machine, ping='no', web='no')
        groups.only('sandbox', WEB)
        _reaches(space, machine, ping='no', web='yes')
        groups.only('sandbox', WEB, PING)
        _reaches(space, machine, ping='yes', web='yes')

    def test_the_machine_lets_in_what_its_group_says(
        self, space: Workspace, machine: str, prober: str, groups: Groups
    ) -> None:
        user, target = space.user, address(space.user, machine)
        groups.only('machine')
        wait_until('no ping', lambda: not _ping(user, prober, target), timeout=20)
        wait_until('no web', lambda: not _fetch(user, prober, target), timeout=20)
        groups.only('machine', WEB)
        wait_until('web', lambda: _fetch(user, prober, target), timeout=20)
        assert not _ping(user, prober, target)
        groups.only('machine', WEB, PING)
        wait_until('ping', lambda: _ping(user, prober, target), timeout=20)

    def test_both_firewalls_keep_their_connections_apart(
        self, space: Workspace, machine: str
    ) -> None:
        """The switch knows those of sandboxes only: both agents number their networks alike."""
        (port,) = space.admin.network.ports(device_id=machine)
        assert port.binding_vif_details['ovs_hybrid_plug'] is True
        flows = {
            bridge: host.command('ovs-ofctl', 'dump-flows', bridge)
            for bridge in ('br-int', CONTROL)
        }
        assert 'ct(commit' in flows['br-int']
        assert 'ct(' not in flows[CONTROL]

    def test_either_goes_on_while_the_nova_computes_start_again(
        self, space: Workspace, machine: str, box: str, prober: str, groups: Groups
    ) -> None:
        groups.only('sandbox', WEB, PING)
        groups.only('machine', PING)
        _reaches(space, machine, ping='yes', web='yes')
        process, pause = host.machines()[machine], host.pause(box).id
        services = ('nova-compute', 'nova-compute-vm')
        try:
            for service in services:
                faults.kill(service)
        finally:
            faults.restart(*services)
        _reaches(space, machine, ping='yes', web='yes')
        target = address(space.user, machine)
        wait_until('ping', lambda: _ping(space.user, prober, target), timeout=20)
        assert host.machines()[machine] == process
        assert host.pause(box).id == pause
        for server in (machine, box):
            assert space.user.compute.get_server(server).status == 'ACTIVE'


class TestScheduling:
    """Each kind finds its host."""

    def test_a_machine_of_any_hypervisor(self, space: Workspace, vm_host: str) -> None:
        server = space.server(flavor=MACHINE, image=PLAIN, networks='none')
        assert _host(space, server) == vm_host

    def test_a_sandbox(self, space: Workspace) -> None:
        for _ in range(2):
            assert _host(space, space.server()) == settings.load().host

    def test_a_container(self, space: Workspace) -> None:
        assert _host(space, space.running()) == settings.load().host

    def test_the_sandbox_image_even_with_the_flavor_of_a_machine(self, space: Workspace) -> None:
        server = space.server(flavor=MACHINE)
        assert _host(space, server) == settings.load().host

    @pytest.mark.parametrize(
        ('kind', 'flavor'), [('kvm', MACHINE), ('kvm', SMALL), ('qemu', SMALL)]
    )
    def test_neither_where_hypervisor_or_trait_is_wrong(
        self, space: Workspace, kind: str, flavor: str
    ) -> None:
        image = space.user.image.create_image(
            name=space.name('vm'),
            data=io.BytesIO(bytes(1 << 16)),
            container_format='bare',
            disk_format='raw',
            img_hv_type=kind,
        )
        space.finally_do(space.user.image.delete_image, image.id)
        server = space.server(flavor=flavor, image=image.name, networks='none', wait=False)
        space.until_server(server, 'ERROR')
        assert 'No valid host' in str(space.user.compute.get_server(server).fault)

    def test_a_machine_is_no_sandbox(self, space: Workspace, machine: str) -> None:
        answer = space.user.request(
            'POST', '/v1/containers', json={'image': 'alpine', 'hints': {'sandbox': machine}}
        )
        assert answer.status_code == 400, answer.text
