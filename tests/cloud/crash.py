"""Kills services at random moments of servers' lives: ``python -m tests.cloud.crash --seed 7``.

Every round asks for some things at once, kills nova-compute, the agent, the Docker Engine or
containerd meanwhile, starts it again, and waits until the APIs' view and the host agree.  That goes
on until so many creates, stops, attaches and deletes were accepted.  At the end all servers are
deleted, and nothing may be left of them anywhere.  The same seed asks for the same things and kills
at the same moments after the asking; only for a server that never came a new one is asked for.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import os
import sys
import time
import typing
from collections.abc import Callable

import openstack
from keystoneauth1 import exceptions as keystone_errors
from zunclient.common.apiclient import exceptions as zun_errors

from tests.cloud import agreement, chance, cloud, faults, host, hosts, moved, users
from tests.cloud.storage import Storage
from tests.cloud.waiting import wait_until

SETTLED = 150.0  # seconds after which Nova and the host must agree again
CLEAN = 90.0  # seconds after the last deletion for all that is done after it

_REFUSED = (
    openstack.exceptions.SDKException,
    keystone_errors.ClientException,
    zun_errors.ClientException,
)
"""What an API says to what cannot be done now, or while the service that does it is away."""


class Victim(typing.NamedTuple):
    """A service that is killed, and started again."""

    kill: Callable[[], None]
    start: Callable[[], None]


class Crash:
    """One run: servers, what is done to them, and what was seen."""

    def __init__(self, space: cloud.Workspace, seed: int, tally: chance.Tally) -> None:
        """Draw everything from `seed`, and count in `tally`."""
        self._space = space
        self._user = space.user
        self._victims = self._services()
        self._plan = chance.Plan(seed, list(self._victims))
        self._tally = tally
        self._network = cloud.network_id(space.user, 'private')
        storage = Storage(space)
        self._volumes = [storage.volume() for _ in range(chance.VOLUMES)]
        self._storage = storage
        self._servers: dict[int, str] = {}  # by the place that the plan has for it
        self._containers: dict[str, str] = {}  # by the server in which it is

    def round(self) -> None:
        """Ask for some things, kill a service meanwhile, and wait until all is right again."""
        drawn = self._plan.round()
        victim = self._victims[drawn.victim]
        began = time.monotonic()
        steps = chance.possible(drawn.steps, self._servers)
        with concurrent.futures.ThreadPoolExecutor(chance.AT_ONCE) as pool:
            outcomes = [pool.submit(self._ask, step) for step in steps]
            time.sleep(drawn.before)
            victim.kill()
            time.sleep(drawn.after)
            victim.start()
            words = [outcome.result() for outcome in outcomes]
        self._tally.seen[f'kills of {drawn.victim}'] += 1
        self._settle()
        print(
            f'{drawn.victim} after {drawn.before:.1f} s: {", ".join(words)}; right again after '
            f'{time.monotonic() - began:.0f} s; {self._tally.counted} accepted',
            flush=True,
        )

    def finish(self) -> None:
        """Delete every server, and see that its containers go and its volumes are free.

        Before that, Placement must have what there is and nothing else.
        """
        servers = list(self._servers.values())
        if servers:
            moved.assert_nothing_to_heal(servers[-1])
        for server in servers:
            self._user.compute.delete_server(server)
        for server in servers:
            cloud.wait_server_gone(self._user, server)
        for container in self._containers.values():
            self._user.wait(container, 'gone', timeout=CLEAN)
        for volume in self._volumes:
            self._storage.until(volume, 'available')

    def _services(self) -> dict[str, Victim]:
        compute, agent = chance.COMPUTE, 'zun-agent'
        return {
            # Nova is not asked when it heard from it: what waits for nova-compute may keep all of
            # its API from answering.
            compute: Victim(
                functools.partial(faults.kill, compute), functools.partial(faults.restart, compute)
            ),
            agent: Victim(functools.partial(faults.kill, agent), faults.restart_agent),
            'dockerd': Victim(faults.kill_docker, faults.restart_docker),
            'containerd': Victim(faults.kill_containerd, faults.restart_containerd),
        }

    def _ask(self, step: chance.Step) -> str:
        """Ask for what was drawn, and count it; returns what became of it."""
        try:
            asked = self._request(step, self._servers.get(step.place, ''))
        except _REFUSED as error:
            self._tally.refused[step.kind] += 1
            status = getattr(error, 'status_code', None) or getattr(error, 'http_status', None)
            return f'{step.kind} ({status or "no answer"})'
        if not asked:
            self._tally.seen['requests without an object'] += 1
            return f'no {step.kind}'
        self._tally.accepted[step.kind] += 1
        return step.kind

    def _request(self, step: chance.Step, server: str) -> bool:
        """Return whether there was anything of which to ask it.

        :param server: none yet for one that is to be made
        """
        compute = self._user.compute
        volume = '' if step.volume is None else self._volumes[step.volume]
        match step.kind:
            case 'create':
                self._servers[step.place] = self._space.server(wait=False)
            case 'stop':
                compute.stop_server(server)
            case 'start':
                compute.start_server(server)
            case 'reboot':
                compute.reboot_server(server, 'HARD')
            case 'attach':
                compute.create_server_interface(server, net_id=self._network)
            case 'detach':
                return self._detach(server)
            case 'attach volume':
                compute.create_volume_attachment(server, volume_id=volume)
            case 'detach volume':
                compute.delete_volume_attachment(server, volume, ignore_missing=False)
            case 'container':
                return self._run(server)
            case 'delete':
                compute.delete_server(server, ignore_missing=False)
        return True

    def _detach(self, server: str) -> bool:
        ports = list(self._user.compute.server_interfaces(server))
        if len(ports) > 1:
            self._user.compute.delete_server_interface(ports[-1], server, ignore_missing=False)
        return len(ports) > 1

    def _run(self, server: str) -> bool:
        if server in self._containers:
            return False
        trapped = ['sh', '-c', 'trap "exit 0" TERM; sleep 36000 & wait']
        self._containers[server] = self._space.run(sandbox=server, command=trapped)
        return True

    def _settle(self) -> None:
        """Wait until all servers are as they should be; one in ERROR is deleted."""
        seen: list[str] = []

        def right() -> bool:
            servers = list(self._servers.values())
            seen[:] = [said for server in servers if (said := self._wrong(server))]
            return not seen

        wait_until(
            'Nova and the host agree',
            right,
            timeout=SETTLED,
            interval=1.0,
            explain=lambda: '\n'.join([*seen, host.describe(list(self._servers.values()))]),
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
            self._tally.seen['servers that ended in ERROR'] += 1
            print(f'{server_id} in ERROR: {(server.fault or {}).get("message")}')
            self._user.compute.delete_server(server_id)
            return f'{server_id} is being deleted'
        if server.task_state or server.status not in ('ACTIVE', 'SHUTOFF'):
            return f'{server_id} is {server.status}, {server.task_state}'
        runs = server.status == 'ACTIVE'
        wrong = agreement.of_server(self._user, self._space.admin, server_id, runs=runs)
        return wrong or self._container_wrong(server_id, runs=runs)

    def _container_of_gone(self, server_id: str) -> str | None:
        container = self._containers.get(server_id)
        if container is not None and (status := self._user.status(container)) != 'gone':
            return f'{server_id} is gone, and its container {container} is {status}'
        self._containers.pop(server_id, None)
        self._servers = {at: one for at, one in self._servers.items() if one != server_id}
        return None

    def _container_wrong(self, server_id: str, *, runs: bool) -> str | None:
        container = self._containers.get(server_id)
        if container is None:
            return None
        return agreement.of_container(self._user, container, server_id, runs=runs)


def run(tally: chance.Tally, *, seed: int, operations: int, seconds: float) -> None:
    """Go on until so much was accepted, and see that nothing is left.

    :param tally: what was done is counted in it
    :param operations: how many creates, stops, attaches and deletes
    :param seconds: after which no other round begins
    :raises AssertionError: something went wrong; what it was is in the message
    """
    admin, demo = users.User('admin'), users.User('demo')
    before = host.look()
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        stack.callback(demo.sdk.close)
        stack.callback(admin.sdk.close)
        stack.callback(hosts.second_in_service, admin.compute, True)
        hosts.second_in_service(admin.compute, False)  # its services are not killed
        space = stack.enter_context(cloud.workspace(demo, admin))
        stack.callback(faults.mend, admin)
        crash = Crash(space, seed, tally)
        number = 0
        while tally.counted < operations and time.monotonic() < deadline:
            number += 1
            print(f'{number}: ', end='')
            crash.round()
        crash.finish()
    wait_until(
        'nothing left behind',
        lambda: not host.left_behind(before),
        timeout=CLEAN,
        interval=1.0,
        explain=lambda: f'{host.left_behind(before)}\n{host.describe()}',
    )
    assert tally.counted >= operations, f'only {tally.counted} accepted in {seconds:g} s'


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument(
        '--operations',
        type=int,
        default=200,
        help='creates, stops, attaches and deletes that must have been accepted',
    )
    parser.add_argument('--seconds', type=float, default=3600, help='begin no round after that')
    options = parser.parse_args()
    print(f'--seed {options.seed}')
    tally = chance.Tally()
    try:
        run(tally, seed=options.seed, operations=options.operations, seconds=options.seconds)
    except AssertionError as error:
        print('\n'.join(['', *tally.lines()]))
        print(f'FAILED with --seed {options.seed}:\n{error}')
        return 1
    print('\n'.join([*tally.lines(), 'nothing left behind']))
    return 0


if __name__ == '__main__':
    sys.exit(main())
