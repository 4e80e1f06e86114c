"""What tenants and operators see of a sandbox."""

from __future__ import annotations

import re
import subprocess
import time

from tests.cloud import host, settings
from tests.cloud.cloud import User, Workspace


def test_diagnostics_tell_what_is_used(space: Workspace) -> None:
    server = space.server()
    space.running(
        sandbox=server,
        command=['sh', '-c', 'head -c 20000000 /dev/zero >/tmp/x; sync; while :; do :; done'],
    )

    def told() -> dict[str, object]:
        answer = space.admin.compute.get(f'/servers/{server}/diagnostics', microversion='2.48')
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    def used() -> int:
        (cpu,) = told()['cpu_details']  # type: ignore[attr-defined]
        return int(cpu['time'])

    before = used()
    time.sleep(1)
    assert used() - before > 100_000_000
    shown = told()
    assert (shown['state'], shown['hypervisor'], shown['num_cpus']) == ('running', 'docker', 1)
    memory = shown['memory_details']
    assert memory['maximum'] == 128  # type: ignore[index]
    assert memory['used'] < 20  # type: ignore[index] # what it wrote to disk can be taken back
    (nic,) = shown['nic_details']  # type: ignore[attr-defined]
    (port,) = space.user.network.ports(device_id=server)
    assert nic['mac_address'] == port.mac_address
    (disk,) = shown['disk_details']  # type: ignore[attr-defined]
    assert disk['write_bytes'] is not None


def test_the_hypervisor_is_described(admin: User, space: Workspace) -> None:
    space.server()
    name = settings.load().host
    session = admin.compute
    (found,) = [
        one
        for one in session.get('/os-hypervisors/detail', microversion='2.53').json()['hypervisors']
        if one['hypervisor_hostname'] == name
    ]
    assert found['hypervisor_type'] == 'docker'
    assert found['cpu_info']['arch'] == 'x86_64'
    assert found['cpu_info']['features']
    assert found['running_vms'] >= 1
    shown = session.get(f'/os-hypervisors/{found["id"]}', microversion='2.88').json()['hypervisor']
    assert ' up ' in shown['uptime']


def test_the_host_can_be_checked() -> None:
    """By the command, run as nova-compute's user with its configuration."""
    conf = settings.load()
    checked = subprocess.run(
        [
            *('runuser', '-u', 'nova', '--', f'{conf["VENV"]}/bin/zun-virt-status'),
            *('--config-file', f'{conf["ETC"]}/nova-compute-{conf.host}/nova.conf'),
            *('upgrade', 'check'),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd='/',
    )
    told = checked.stdout
    # Some of what this machine lacks is worth a warning; nothing is a failure.
    assert checked.returncode in (0, 1), told + checked.stderr
    assert 'Failure' not in told
    for title in ('Docker Engine', 'Open vSwitch', 'Privileged processes', 'State directory'):
        assert re.search(rf'Check: {title} +\|\n\| Result: Success', told), told


def test_a_tenant_is_told_why_a_sandbox_could_not_be_made(admin: User, space: Workspace) -> None:
    flavor = admin.compute.create_flavor(name=space.name('odd'), vcpus=1, ram=64, disk=1)
    space.finally_do(admin.compute.delete_flavor, flavor.id)
    admin.compute.create_flavor_extra_specs(
        flavor, {'trait:CUSTOM_ZUN_SANDBOX': 'required', 'quota:cpu_quota': '5'}
    )
    server = space.server(flavor=flavor.name, wait=False)
    space.until_server(server, 'ERROR')
    fault = space.user.compute.get_server(server).fault
    assert 'quota:cpu_quota=5 must be a number from 1000' in fault['message'], fault
    (action,) = space.user.compute.server_actions(server)
    assert action.action == 'create'
    assert host.containers(server) == []
