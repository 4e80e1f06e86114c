"""Sandboxes that go from one host to another, and what must be true wherever they are."""

from __future__ import annotations

import pathlib
import subprocess

from tests.cloud import host as truth
from tests.cloud import hosts, settings
from tests.cloud.cloud import Workspace, address, gateway
from tests.cloud.storage import Storage, path
from tests.cloud.waiting import wait_until
from zun_virt import sandbox as contract

WRITES = ['sh', '-c', 'test -e /kept || echo here > /kept; trap "exit 0" TERM; sleep 3600 & wait']
THERE = 60.0  # seconds for an agent to make the containers of a sandbox that came to its host


class Moved:
    """A sandbox with a container that runs and a job that has ended."""

    def __init__(self, space: Workspace, host: hosts.SandboxHost) -> None:
        self.space, self.user = space, space.user
        self.server = space.server(host=host.name)
        self.volume: str | None = None
        self.one = space.running(sandbox=self.server, command=WRITES)
        self.job = space.run(sandbox=self.server, command=['echo', 'began'])
        self.user.wait(self.job, 'Stopped')
        self.address = address(self.user, self.server)

    def give_volume(self, storage: Storage) -> None:
        """Attach a volume, and write to it."""
        self.volume = storage.volume()
        storage.attach(self.server, self.volume)
        self.user.shell(self.one, f'echo precious > {path(self.volume)}/file && sync')

    def assert_runs_on(self, host: hosts.SandboxHost) -> None:
        """Its container runs there, with its address and its data, and the job does not."""
        self.assert_placed_on(host)
        self.user.wait(self.one, 'Running', timeout=THERE)
        wait_until(
            f'its container on {host.name}',
            lambda: self.space.admin.show(self.one).host == host.name,
            timeout=20,
        )
        assert self.one in {
            found.labels.get(contract.LABEL_CONTAINER) for found in host.containers(self.server)
        }
        assert self.user.status(self.job) == 'Stopped'
        assert self.address in self.user.shell(self.one, 'ip addr')
        wait_until(
            'the gateway answers',
            lambda: self.user.execute(self.one, f'ping -c 1 -W 3 {gateway(self.user)}')[1] == 0,
            timeout=20,
        )
        if self.volume:
            assert self.user.shell(self.one, f'cat {path(self.volume)}/file') == 'precious\n'

    def assert_placed_on(self, host: hosts.SandboxHost) -> None:
        """Nova has it there."""
        assert self.space.admin.compute.get_server(self.server).compute_host == host.name

    def assert_clean(self, host: hosts.SandboxHost) -> None:
        """Nothing of it is on that host."""
        digits = self.server.replace('-', '')
        ports = {f'tap{port.id}'[:14] for port in self.user.network.ports(device_id=self.server)}

        def left() -> list[object]:
            groups = [path for path in host.control_groups() if digits in path]
            found = [*host.containers(self.server), *groups, *(ports & host.switch_ports())]
            directories = [host.sandboxes().directory(self.server)]
            directories.append(host.sandboxes().volumes(self.server))
            return found + [directory for directory in directories if directory.exists()]

        wait_until(
            f'nothing left on {host.name}',
            lambda: not left(),
            timeout=60,  # it may be left to the search for orphans
            explain=lambda: f'{left()}\n{truth.tail(_log(host), 40)}',
        )

    def assert_accounted_on(self, host: hosts.SandboxHost) -> None:
        """Placement has it there and nowhere else."""
        statement = (
            'select distinct provider.name from placement.allocations allocation '
            'join placement.resource_providers provider '
            'on provider.id = allocation.resource_provider_id where allocation.consumer_id = %s'
        )
        wait_until(
            f'allocations on {host.name} only',
            lambda: truth.query(statement, self.server) == [(host.name,)],
            timeout=30,
            explain=lambda: str(truth.query(statement, self.server)),
        )


def assert_nothing_to_heal(server: str) -> None:
    """Let nova-manage look for what Placement has too much and too little."""
    conf = settings.load()
    begin = [f'{conf["VENV"]}/bin/nova-manage', '--config-file', f'{conf["ETC"]}/nova/nova.conf']
    found = subprocess.Popen(
        [*begin, 'placement', 'audit', '--verbose'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        healed = subprocess.run(
            [*begin, 'placement', 'heal_allocations', '--dry-run', '--verbose'],
            capture_output=True,
            text=True,
            timeout=120,
        )
        audited, _ = found.communicate(timeout=120)
    finally:
        found.kill()
        found.wait()
    assert found.returncode == 0, f'audit ended with {found.returncode}: {audited}'
    said = healed.stdout + healed.stderr
    assert healed.returncode == 4, f'heal_allocations ended with {healed.returncode}: {said}'
    assert '[dry-run]' not in said, said
    assert f'allocation of instance {server} is up-to-date' in said, said


def _log(host: hosts.SandboxHost) -> pathlib.Path:
    return settings.load().log(f'nova-compute{host.suffix}')
