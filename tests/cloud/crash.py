"""Kills services at random moments of servers' lives: ``python -m tests.cloud.crash --seed 7``.

Every round asks for some things at once, kills nova-compute, the agent, the Docker Engine or
containerd meanwhile, starts it again, and waits until the APIs' view and the host agree.  At the
end all servers are deleted, and nothing may be left of them anywhere.  The same seed asks for the
same things and kills at the same moments after the asking.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable

import openstack
from keystoneauth1 import exceptions as keystone_errors
from zunclient.common.apiclient import exceptions as zun_errors

from tests.cloud import agreement, cloud, faults, host, moved, users
from tests.cloud.storage import Storage
from tests.cloud.waiting import wait_until

SETTLED = 150.0  # seconds after which Nova and the host must agree again
CLEAN = 90.0  # seconds after the last deletion for all that is done after it
MOST = 5  # servers at a time
VOLUMES = 3
AT_ONCE = 4  # things asked for in a round

_REFUSED = (
    openstack.exceptions.SDKException,
    keystone_errors.ClientException,
    zun_errors.ClientException,
)
"""What an API says to what cannot be done now, or while the service that does it is away."""


class Crash:
    """One run: servers, what is done to them, and what was seen."""

    def __init__(self, space: cloud.Workspace, seed: int) -> None:
        """Draw everything from `seed`."""
        self._space = space
        self._user = space.user
        self._chance = random.Random(seed)
        self._network = cloud.network_id(space.user, 'private')
        storage = Storage(space)
        self._volumes = [storage.volume() for _ in range(VOLUMES)]
        self._storage = storage
        self._servers: list[str] = []
        self._containers: dict[str, str] = {}  # by the server in which it is
        self._asked: set[tuple[str, str]] = set()  # of which server, and what, in this round
        self.done: collections.Counter[str] = collections.Counter()

    def round(self) -> None:
        """Ask for some things, kill a service meanwhile, and wait until all is right again."""
        victim, kill, start = self._chance.choice(self._victims())
        self._asked.clear()
        asked = [self._choose() for _ in range(AT_ONCE)]
        before, after = self._chance.uniform(0, 4), self._chance.uniform(0, 2)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = [pool.submit(self._ask, name, act) for name, act in asked]
            time.sleep(before)
            kill()
            time.sleep(after)
            start()
            words = [outcome.result() for outcome in outcomes]
        self.done[f'kill {victim}'] += 1
        self._settle()
        print(
            f'{victim} after {before:.1f} s: {", ".join(words)}; right again after '
            f'{time.monotonic() - began:.0f} s',
            flush=True,
        )

    def finish(self) -> None:
        """Delete every server, and see that its containers go and its volumes are free.

        Before that, Placement must have what there is and nothing else.
        """
        if self._servers:
            moved.assert_nothing_to_heal(self._servers[-1])
        for server in self._servers:
            self._user.compute.delete_server(server)
        for server in self._servers:
            cloud.wait_server_gone(self._user, server)
        for container in self._containers.values():
            self._user.wait(container, 'gone', timeout=CLEAN)
        for volume in self._volumes:
            self._storage.until(volume, 'available')

    def _victims(self) -> list[tuple[str, Callable[[], None], Callable[[], None]]]:
        admin = self._space.admin
        compute = lambda: faults.kill('nova-compute')  # noqa: E731
        return [
            ('nova-compute', compute, lambda: faults.restart_compute(admin)),
            ('zun-agent', lambda: faults.kill('zun-agent'), faults.restart_agent),
            ('dockerd', faults.kill_docker, faults.restart_docker),
            ('containerd', faults.kill_containerd, faults.restart_containerd),
        ]

    def _choose(self) -> tuple[str, Callable[[], object]]:
        if len(self._servers) < 2 or (len(self._servers) < MOST and self._chance.random() < 0.3):
            return 'create', self._create
        lasting = [one for one in self._servers if (one, 'delete') not in self._asked]
        if not lasting:
            return 'create', self._create
        server = self._chance.choice(lasting)
        name, act = self._chance.choice(self._choices(server))
        self._asked.add((server, name))
        return name, act

    def _choices(self, server: str) -> list[tuple[str, Callable[[], object]]]:
        compute, network = self._user.compute, self._network
        choices: list[tuple[str, Callable[[], object]]] = [
            ('stop', lambda: compute.stop_server(server)),
            ('start', lambda: compute.start_server(server)),
            ('reboot', lambda: compute.reboot_server(server, 'HARD')),
            ('attach', lambda: compute.create_server_interface(server, net_id=network)),
            ('detach', lambda: self._detach(server)),
            ('attach volume', lambda: self._attach_volume(server)),
            ('detach volume', lambda: self._detach_volume(server)),
            ('run', lambda: self._run(server)),
        ]
        # nova itself leaves a port in Neutron that it makes for a server that is being deleted.
        if (server, 'attach') not in self._asked:
            choices.append(('delete', lambda: compute.delete_server(server)))
        return choices

    def _ask(self, name: str, act: Callable[[], object]) -> str:
        try:
            act()
        except _REFUSED as error:
            self.done[f'{name}, refused'] += 1
            status = getattr(error, 'status_code', None) or getattr(error, 'http_status', None)
            return f'{name} ({status or "no answer"})'
        self.done[name] += 1
        return name

    def _create(self) -> None:
        self._servers.append(self._space.server(wait=False))

    def _detach(self, server: str) -> None:
        ports = list(self._user.compute.server_interfaces(server))
        if len(ports) > 1:
            self._user.compute.delete_server_interface(ports[-1], server=server)

    def _attach_volume(self, server: str) -> None:
        free = [one for one in self._volumes if self._storage.status(one) == 'available']
        if free:
            self._user.compute.create_volume_attachment(server, volume_id=free[0])

    def _detach_volume(self, server: str) -> None:
        for volume in self._storage.devices(server):
            self._user.compute.delete_volume_attachment(server, volume)
            return

    def _run(self, server: str) -> None:
        if server not in self._containers:
            trapped = ['sh', '-c', 'trap "exit 0" TERM; sleep 36000 & wait']
            self._containers[server] = self._space.run(sandbox=server, command=trapped)

    def _settle(self) -> None:
        """Wait until all servers are as they should be; one in ERROR is deleted."""
        seen: list[str] = []

        def right() -> bool:
            seen[:] = [said for server in list(self._servers) if (said := self._wrong(server))]
            return not seen

        wait_until(
            'Nova and the host agree',
            right,
            timeout=SETTLED,
            interval=1.0,
            explain=lambda: '\n'.join([*seen, host.describe(self._servers)]),
        )

    def _wrong(self, server_id: str) -> str | None:
        """Return in which way a server and its sandbox differ, None for none."""
        try:
            server = self._user.compute.get_server(server_id)
        except openstack.exceptions.NotFoundException:
            return self._container_of_gone(server_id)
        except _REFUSED as error:
            return f'{server_id}: {error}'
        if server.status == 'ERROR' and not server.task_state:
            self.done['ended in ERROR'] += 1
            print(f'{server_id} in ERROR: {(server.fault or {}).get("message")}')
            self._user.compute.delete_server(server_id)
            return f'{server_id} is being deleted'
        if server.task_state or server.status not in ('ACTIVE', 'SHUTOFF'):
            return f'{server_id} is {server.status}, {server.task_state}'
        runs = server.status == 'ACTIVE'
        return agreement.of_server(self._user, server_id, runs=runs) or self._container_wrong(
            server_id, runs=runs
        )

    def _container_of_gone(self, server_id: str) -> str | None:
        container = self._containers.get(server_id)
        if container is not None and (status := self._user.status(container)) != 'gone':
            return f'{server_id} is gone, and its container {container} is {status}'
        self._containers.pop(server_id, None)
        self._servers.remove(server_id)
        return None

    def _container_wrong(self, server_id: str, *, runs: bool) -> str | None:
        container = self._containers.get(server_id)
        if container is None:
            return None
        return agreement.of_container(self._user, container, server_id, runs=runs)


def run(*, seed: int, rounds: int, seconds: float) -> collections.Counter[str]:
    """Do so many rounds, or as many as there is time for, and see that nothing is left.

    :returns: how often each thing was done
    :raises AssertionError: something went wrong; what it was is in the message
    """
    admin, demo = users.User('admin'), users.User('demo')
    before = host.look()
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        stack.callback(demo.sdk.close)
        stack.callback(admin.sdk.close)
        space = stack.enter_context(cloud.workspace(demo, admin))
        stack.callback(faults.mend, admin)
        crash = Crash(space, seed)
        for number in range(rounds):
            if time.monotonic() > deadline:
                break
            print(f'{number + 1}: ', end='')
            crash.round()
        crash.finish()
    wait_until(
        'nothing left behind',
        lambda: not host.left_behind(before),
        timeout=CLEAN,
        interval=1.0,
        explain=lambda: f'{host.left_behind(before)}\n{host.describe()}',
    )
    return crash.done


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument('--rounds', type=int, default=50, help=f'of {AT_ONCE} things each')
    parser.add_argument('--seconds', type=float, default=3600, help='begin no round after that')
    options = parser.parse_args()
    print(f'--seed {options.seed}')
    try:
        done = run(seed=options.seed, rounds=options.rounds, seconds=options.seconds)
    except AssertionError as error:
        print(f'\nFAILED with --seed {options.seed}:\n{error}')
        return 1
    for name, times in sorted(done.items()):
        print(f'{times:5} {name}')
    print('nothing left behind')
    return 0


if __name__ == '__main__':
    sys.exit(main())
