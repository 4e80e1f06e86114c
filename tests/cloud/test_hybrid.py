"""Ports that are plugged through a bridge each, as Neutron's iptables firewall has them."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.cloud import faults, host, settings
from tests.cloud.cloud import User, Workspace, address, gateway
from tests.cloud.waiting import wait_until

pytestmark = pytest.mark.alone

HYBRID = '\n[securitygroup]\nfirewall_driver = iptables_hybrid\n'


def _forget_rules() -> None:
    """Remove what that firewall leaves when another takes its place."""
    for tables in ('iptables', 'ip6tables'):
        rules = host.command(f'{tables}-save').splitlines(keepends=True)
        subprocess.run(
            [f'{tables}-restore'],
            input=''.join(rule for rule in rules if 'neutron-' not in rule),
            text=True,
            check=True,
            timeout=30,
        )
    for name in host.command('ipset', 'list', '-name').split():
        if name.startswith('NIPv'):
            host.command('ipset', 'destroy', name)


@pytest.fixture(scope='module', autouse=True)
def iptables(module_leaves_nothing: None, admin: User) -> Iterator[None]:
    """Neutron's agent with that firewall."""
    conf = settings.load()
    path = pathlib.Path(conf['ETC'], 'neutron', 'openvswitch_agent.ini')
    before = path.read_text()

    def told(hybrid: bool) -> None:
        def agrees() -> bool:
            (agent,) = admin.network.agents(host=conf.host, agent_type='Open vSwitch agent')
            return bool(agent.is_alive and agent.configuration['ovs_hybrid_plug'] is hybrid)

        faults.anew('neutron-ovs-agent')
        wait_until('the agent reports', agrees, timeout=60)

    with contextlib.ExitStack() as undo:
        undo.callback(_forget_rules)
        undo.callback(told, False)
        undo.callback(path.write_text, before)
        path.write_text(before + HYBRID)
        told(True)
        yield


def _pings(user: User, container_id: str, target: str) -> bool:
    return user.execute(container_id, f'ping -c 1 -W 1 {target}')[1] == 0


def test_a_port_with_a_bridge_of_its_own(space: Workspace) -> None:
    """Nothing gets in but what its group lets in, also after a stop and a start."""
    user, group = space.user, space.group()
    server = space.server(security_groups=[{'name': group}])
    other = space.server()
    one, near = space.running(sandbox=server), space.running(sandbox=other)
    (port,) = space.admin.network.ports(device_id=server)
    assert port.binding_vif_details['ovs_hybrid_plug'] is True
    devices = {f'{kind}{port.id}'[:14] for kind in ('qbr', 'qvb', 'qvo', 'tap')}
    assert devices <= host.links()
    assert f'qvo{port.id}'[:14] in host.switch_ports()
    wait_until('the gateway', lambda: _pings(user, one, gateway(user)), timeout=20)
    assert not _pings(user, near, address(user, server))
    space.allow(group, protocol='icmp', ether_type='IPv4')
    wait_until('let in', lambda: _pings(user, near, address(user, server)), timeout=20)
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    wait_until('let in again', lambda: _pings(user, near, address(user, server)), timeout=20)
    assert devices <= host.links()
