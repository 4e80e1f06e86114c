"""(f), (g) Sandboxes from Nova and containers in new ones, against servers of its fake driver."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable

from tests.bench.lab import POLL, Lab, at_once
from tests.bench.measure import Row, alternate, median
from tests.cloud import host, settings
from tests.cloud.waiting import wait_until
from zun_virt import sandbox

ADDED_TARGET = 150  # ms
READY_TARGET = 150  # ms
MANY = 20
POST_TARGET = 1.2
_SERVER_SECONDS = 90.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """When a server got how far, in ms after it was asked for.

    :ivar allocated: Nova knew its port
    :ivar made: the driver had written down that its pause container runs; None for the fake one
    """

    allocated: float
    active: float
    made: float | None

    @property
    def plugged(self) -> float:
        """When its driver could begin to plug the port, which Nova knew."""
        return max(self.made or 0, self.allocated)


class Watch:
    """Sees in Nova's database how far servers are: its API would need the machine for itself."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def follow(self, begin: float, server: str) -> Progress:
        """Wait until a server is active.

        :param begin: when it was asked for, in seconds since 1970
        """
        moments: dict[str, float] = {}

        def look() -> bool:
            port, state = self._look(server)
            assert state != 'error', f'server {server} is in ERROR\n{host.describe([server])}'
            seen = {'allocated': port, 'active': state == 'active'}
            moments.update({k: time.time() for k, is_so in seen.items() if is_so} | moments)
            if 'made' not in moments and (made := _made(server)):
                moments['made'] = made
            return 'active' in moments

        wait_until(f'server {server}', look, timeout=_SERVER_SECONDS, interval=POLL)
        after = {what: (moment - begin) * 1000 for what, moment in moments.items()}
        return Progress(after['allocated'], after['active'], after.get('made'))

    def _look(self, server: str) -> tuple[bool, str]:
        rows = self._lab.query(
            "select i.vm_state, coalesce(c.network_info, '[]') from nova.instances i "
            'left join nova.instance_info_caches c on c.instance_uuid = i.uuid where i.uuid = %s',
            server,
        )
        return (rows[0][1] != '[]', rows[0][0]) if rows else (False, '')


class Rounds:
    """What is measured, once each, of servers of both kinds and of containers."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._eye = Watch(lab)
        self.sandboxes: list[Progress] = []
        self.fakes: list[Progress] = []
        self.waits: list[float] = []

    def sandbox(self) -> float:
        """Make a sandbox; returns the ms until it is ACTIVE."""
        with self._lab.round():
            begin = time.time()
            server = self._lab.post_server()
            seen = self._eye.follow(begin, server)
            assert seen.made is not None, f'sandbox {server} is not on this host'
            self.sandboxes.append(seen)
        return seen.active

    def waited(self, n: int) -> str:
        """Say how long the last `n` sandboxes waited for Neutron, as the fake driver does not."""
        taken = [one.active - one.plugged for one in self.sandboxes[-n:]]
        return f'{median(taken):.0f} ms of it from the plug until Neutron has wired the port'

    def fake(self) -> float:
        """Make a server of the fake driver; returns the ms until it is ACTIVE."""
        with self._lab.round():
            begin = time.time()
            self.fakes.append(self._eye.follow(begin, self._lab.post_server('m1.nano', 'plain')))
        return self.fakes[-1].active

    def container(self) -> float:
        """Make a container with a sandbox of its own; returns the ms until it is Running."""
        with self._lab.round():
            begin = time.time()
            made = self._lab.post_with_sandbox()
            ready = _until_ready(made)
            running = self._lab.until_running(made)
            end = time.time()
        self.waits.append((running - ready) * 1000)
        return (end - begin) * 1000

    def bare(self) -> float:
        """Start a container by bare Docker as soon as a sandbox is ready; returns the ms since."""
        store = host.sandboxes()

        def building() -> sandbox.Sandbox | None:
            record = store.read(server)
            return record if record is not None and record.pause else None

        with self._lab.round():
            server = self._lab.post_server()
            record = wait_until('a pause container', building, timeout=_SERVER_SECONDS)
            made = self._lab.engine.create_joined(record)
            ready = _until_ready(server)
            self._lab.engine.start(made)
            return (time.time() - ready) * 1000


def create(rows: list[Row], lab: Lab, *, n: int = 12) -> None:
    """(f) Servers of both kinds, and containers with a sandbox of their own."""
    settings.allinone('fake-host', 'up')
    with contextlib.ExitStack() as stack:
        stack.callback(settings.allinone, 'fake-host', 'down')
        rounds = Rounds(lab)
        actives, fake_actives, runnings, bares = alternate(
            n, rounds.sandbox, rounds.fake, rounds.container, rounds.bare
        )
    what = 'server create to ACTIVE; of the fake driver'
    ours, raw = median(actives), median(fake_actives)
    wait = median(rounds.waits[-n:])
    rows += [
        Row(key='f', what=what, unit='ms', ours=ours, raw=raw, n=n, note=rounds.waited(n)),
        _added(rounds.sandboxes[-n:], rounds.fakes[-n:]),
        Row(
            key='f', what='POST without a sandbox to Running', unit='ms', ours=median(runnings), n=n
        ),
        Row(
            key='f',
            what='from the sandbox ready to Running; to started by Docker',
            unit='ms',
            ours=wait,
            raw=median(bares),
            target=f'<= {READY_TARGET} ms',
            met=wait <= READY_TARGET,
            n=n,
        ),
    ]


def _added(sandboxes: list[Progress], fakes: list[Progress]) -> Row:
    """Compare the moments at which the port can be plugged."""
    plugged = median([one.plugged for one in sandboxes])
    allocated = median([one.allocated for one in fakes])
    return Row(
        key='f',
        what='create to the plug; to the port known, fake driver',
        unit='ms',
        ours=plugged,
        raw=allocated,
        target=f'<= +{ADDED_TARGET} ms',
        met=plugged - allocated <= ADDED_TARGET,
        n=len(sandboxes),
        note=f'adds {plugged - allocated:.0f} ms',
    )


def _made(server: str) -> float | None:
    """Return when the driver wrote down that a sandbox's pause container runs.

    It is written over when the sandbox is ready.
    """
    store = host.sandboxes()
    record = store.read(server)
    if record is None or record.pause is None:
        return None
    return (store.directory(server) / 'sandbox.json').stat().st_mtime


def _until_ready(server: str) -> float:
    """Wait until the driver calls a sandbox ready; returns when it did, seconds since 1970."""
    store = host.sandboxes()

    def ready() -> float:
        record = store.read(server)
        if record is None or record.state is not sandbox.State.READY:
            return 0.0
        return (store.directory(server) / 'sandbox.json').stat().st_mtime

    return wait_until(f'sandbox {server} ready', ready, timeout=_SERVER_SECONDS, interval=POLL)


def many(rows: list[Row], lab: Lab, *, n: int = 2) -> None:
    """(g) Many containers at once, each with a sandbox of its own: what their POSTs cost."""
    running: list[float] = []

    def containers() -> float:
        with lab.round():
            begin = time.perf_counter()
            made, taken = _posts(lab.post_with_sandbox)
            lab.until_running(*made, timeout=_SERVER_SECONDS)
            running.append(time.perf_counter() - begin)
        return taken

    def servers() -> float:
        with lab.round():
            made, taken = _posts(lab.post_server)
            for server in made:
                lab.space.until_server(server, 'ACTIVE')
        return taken

    ours, bare = alternate(n, containers, servers, warm_up=0)
    rows.append(
        Row(
            key='g',
            what=f"{MANY} POSTs with new sandboxes at once, summed; Nova's own",
            unit='ms',
            ours=median(ours),
            raw=median(bare),
            target=f'<= {POST_TARGET} x',
            met=median(ours) <= POST_TARGET * median(bare),
            n=n,
            note=f'all Running after {median(running):.1f} s, no failure',
        )
    )


def _posts(post: Callable[[], str]) -> tuple[list[str], float]:
    """Send many at once; returns the ids of what was made and the sum of durations in ms."""

    def one(_: int) -> tuple[str, float]:
        begin = time.perf_counter()
        return post(), (time.perf_counter() - begin) * 1000

    results = at_once(MANY, one)
    return [made for made, _ in results], sum(taken for _, taken in results)
