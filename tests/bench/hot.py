"""(k) Volumes and interfaces for a container that runs: from Nova's API to its own view."""

from __future__ import annotations

import concurrent.futures
import pathlib
import time
import typing
from collections.abc import Callable

from tests.bench.lab import POLL, Lab
from tests.bench.measure import Row, median
from tests.cloud import host
from tests.cloud.storage import Storage, path
from tests.cloud.waiting import wait_until

_CIDR, _ADDRESS = '10.42.0.0/24', '10.42.0.77'
_SECONDS = 60.0


def run(rows: list[Row], lab: Lab, *, n: int = 6) -> None:
    """(k) One after another, each taken away again."""
    (record,) = lab.sandboxes(1)
    with lab.round(), concurrent.futures.ThreadPoolExecutor(1) as pool:
        container = lab.post_container(hints={'sandbox': record.instance_id})
        lab.until_running(container)
        things = Attachments(lab, pool, record.instance_id, container)
        volumes, interfaces = Samples(things.volume, n), Samples(things.interface, n)
    # Nova says a moment later than the container sees it that all is done: both are told.
    rows += [
        *volumes.rows('volume', f'the first, with its file system, in {volumes.first:.0f} ms'),
        *interfaces.rows('interface', f'the first in {interfaces.first:.0f} ms'),
    ]


class Samples:
    """What it took to attach and detach something, some times, in ms."""

    def __init__(self, act: Callable[[], tuple[float, float]], n: int) -> None:
        """Do it.

        :param act: attaches and detaches, and returns how long the two took
        """
        (self.first, _), *self._taken = (act() for _ in range(n + 1))

    def rows(self, what: str, note: str) -> list[Row]:
        """Return them as lines of the table.

        :param note: to the first
        """
        attached, detached = (median(side) for side in zip(*self._taken, strict=True))
        row: dict[str, typing.Any] = {'key': 'k', 'unit': 'ms', 'n': len(self._taken)}
        return [
            Row(**row, what=f'{what} from POST into a running container', ours=attached, note=note),
            Row(**row, what=f'{what} from DELETE out of it', ours=detached),
        ]


class Attachments:
    """Attaches to a sandbox, and looks from one of its containers."""

    def __init__(
        self, lab: Lab, pool: concurrent.futures.Executor, server: str, container: str
    ) -> None:
        self._lab, self._pool = lab, pool
        self._server = server
        self._process = pathlib.Path('/proc', str(host.container(container).attrs['State']['Pid']))
        self._storage = Storage(lab.space)
        self._volume = self._storage.volume()
        self._network = lab.space.new_network(_CIDR, gateway_ip=None)

    def volume(self) -> tuple[float, float]:
        """Attach a volume and detach it."""
        body = {'volumeAttachment': {'volumeId': self._volume}}
        mount = path(self._volume)
        attached, _ = self._ask('POST', 'os-volume_attachments', body, 'mounts', mount, True)
        self._storage.until(self._volume, 'in-use')
        at = f'os-volume_attachments/{self._volume}'
        detached, _ = self._ask('DELETE', at, None, 'mounts', mount, False)
        self._storage.until(self._volume, 'available')
        self._until('Nova has forgotten it', lambda: not self._storage.devices(self._server))
        return attached, detached

    def interface(self) -> tuple[float, float]:
        """Attach an interface and detach it."""
        fixed = [{'ip_address': _ADDRESS}]
        body = {'interfaceAttachment': {'net_id': self._network, 'fixed_ips': fixed}}
        attached, made = self._ask('POST', 'os-interface', body, 'net/fib_trie', _ADDRESS, True)
        port = made['interfaceAttachment']['port_id']
        at = f'os-interface/{port}'
        detached, _ = self._ask('DELETE', at, None, 'net/fib_trie', _ADDRESS, False)
        network = self._lab.space.user.network
        self._until('the port deleted', lambda: network.find_port(port) is None)
        return attached, detached

    def _ask(
        self, method: str, what: str, body: object, file: str, word: str, wanted: bool
    ) -> tuple[float, typing.Any]:
        """Send a request; returns the ms until a container's process sees what came of it.

        :param file: of the process, below its directory in /proc
        :param word: that the file shall have, or shall not
        :returns: and what was answered, which may come later
        """
        begin = time.perf_counter()
        asked = self._pool.submit(
            self._lab.request, 'NOVA', method, f'/v2.1/servers/{self._server}/{what}', body
        )

        def seen() -> bool:
            if asked.done():
                asked.result()  # raises what it was refused with
            return (word in (self._process / file).read_text()) is wanted

        wait_until(f'{method} {what}', seen, timeout=_SECONDS, interval=POLL)
        taken = (time.perf_counter() - begin) * 1000
        return taken, asked.result()

    def _until(self, what: str, probe: Callable[[], bool]) -> None:
        wait_until(what, probe, timeout=_SECONDS)
