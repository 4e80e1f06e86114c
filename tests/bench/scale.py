"""(l) What a full host costs: requests to Docker, and the memory of a process with the driver.

``python -m tests.bench.scale`` is that process: as in (a), without Nova and Neutron, and with
nothing loaded but Nova's libraries and the driver.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing
import uuid
from collections.abc import Callable

import docker
from nova.compute import provider_tree

from tests.bench import memory, spawn
from tests.bench.measure import Row, median

if typing.TYPE_CHECKING:
    from tests.bench.lab import Lab
    from zun_virt import driver

FEW, MANY = 20, 200
_TIMES = 5
_SECONDS = 420.0
_CALLS = {
    'update': 'resource update',
    'sync': 'power sync pass',
}


def run(rows: list[Row], lab: Lab) -> None:
    """(l) The same with few sandboxes and with many, in a process of its own."""
    empty, few, many = _measure()
    for call, what in _CALLS.items():
        requests = [seen[call]['requests'] for seen in (few, many)]
        taken = [seen[call]['ms'] for seen in (few, many)]
        rows.append(
            Row(
                key='l',
                what=f'{what} with {MANY} sandboxes; with {FEW}',
                unit='requests',
                ours=requests[1],
                raw=requests[0],
                target='<= 1 x',
                met=requests[1] <= requests[0],
                n=_TIMES,
                note=f'{taken[1]:.0f} ms; {taken[0]:.0f} ms',
            )
        )
    rows.append(
        Row(
            key='l',
            what=f'memory of driver and helpers with {MANY}; with none',
            unit='MB',
            ours=sum(many['memory']),
            raw=sum(empty['memory']),
            note=f'itself {many["memory"][0]:.0f} MB; {empty["memory"][0]:.0f} MB',
        )
    )


def _measure() -> list[dict[str, typing.Any]]:
    command = [sys.executable, '-m', 'tests.bench.scale']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=_SECONDS)
        finally:
            # Told to end, it removes what it has made.
            process.terminate()
            process.wait(_SECONDS)
    assert process.returncode == 0, f'{" ".join(command)} ended with {process.returncode}'
    found: list[dict[str, typing.Any]] = json.loads(output)
    return found


class Host:
    """A host with a driver whose requests to Docker are counted."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        strangers = memory.privileged()
        engine = stack.enter_context(contextlib.closing(docker.APIClient(version='auto')))
        made, meta, _ = spawn.prepare(stack, engine, helpers=True, passes=False)
        self._driver: driver.ZunDriver = made
        self._spawns = spawn.Spawns(made, meta)
        stack.callback(self._spawns.destroy)
        self._helpers = memory.privileged() - strangers
        self._requests = Requests(made._host._client)
        self._tree = provider_tree.ProviderTree()
        self._tree.new_root(spawn.HOST, str(uuid.uuid4()))

    def look(self, count: int) -> dict[str, typing.Any]:
        """Return what it costs with so many sandboxes."""
        while len(self._spawns.instances) < count:
            self._spawns.spawn()
        return {
            'update': self._cost(self._update),
            'sync': self._cost(self._sync),
            'memory': [
                memory.proportional_mb([os.getpid()]),
                memory.proportional_mb(self._helpers),
            ],
        }

    def _cost(self, act: Callable[[], None]) -> dict[str, float]:
        counts, taken = [], []
        for _ in range(_TIMES):
            before, begin = self._requests.count, time.perf_counter()
            act()
            taken.append((time.perf_counter() - begin) * 1000)
            counts.append(self._requests.count - before)
        return {'requests': max(counts), 'ms': median(taken)}

    def _update(self) -> None:
        """As Nova's resource tracker does it, every minute."""
        self._driver.get_available_resource(spawn.HOST)
        self._driver.update_provider_tree(self._tree, spawn.HOST)

    def _sync(self) -> None:
        """As Nova's manager does it, every ten minutes, in other threads."""
        self._driver.get_num_instances()
        for instance in self._spawns.instances:
            self._driver.get_info(instance)


class Requests:
    """Counts a client's requests at the way into the socket, those of this thread."""

    def __init__(self, client: typing.Any) -> None:
        """Begin.

        :param client: docker.APIClient
        """
        self.count = 0
        self._mine = threading.get_ident()
        adapter = client.get_adapter(client.base_url)
        self._send, adapter.send = adapter.send, self._counted

    def _counted(self, *arguments: typing.Any, **options: typing.Any) -> typing.Any:
        self.count += threading.get_ident() == self._mine
        return self._send(*arguments, **options)


def main() -> None:
    """Measure, and print it as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as stack:
        looks = list(map(Host(stack).look, (0, FEW, MANY)))
    json.dump(looks, sys.stdout)


if __name__ == '__main__':
    main()
