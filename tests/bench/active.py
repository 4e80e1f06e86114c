"""(i) A server from its POST to ACTIVE, against the fake driver's and Docker's part of it."""

from __future__ import annotations

import contextlib
import time

from tests.bench.lab import Lab
from tests.bench.measure import Row, alternate, median
from tests.bench.servers import Rounds
from tests.cloud import faults, host, settings

TARGET = 1.15

UNAWAITED = """
[DEFAULT]
# as by the fake driver, which never does
vif_plugging_timeout = 0
"""


def run(rows: list[Row], lab: Lab, *, n: int = 8) -> None:
    """(i) One after another: a sandbox, a server of the fake driver, a bare pause container."""
    (record,) = lab.sandboxes(1)
    image = host.pause(record.instance_id).attrs['Image']

    def bare() -> float:
        with lab.round():
            begin = time.perf_counter()
            lab.engine.pause(image)
            return (time.perf_counter() - begin) * 1000

    settings.allinone('fake-host', 'up')
    with contextlib.ExitStack() as stack:
        stack.callback(settings.allinone, 'fake-host', 'down')
        rounds = Rounds(lab)
        taken = alternate(n, rounds.sandbox, rounds.fake, bare)
        rows.append(_row('server create to ACTIVE; fake driver + create+start', taken))
        rows[-1].note += f'; {rounds.waited(n)}'
        with faults.compute_with(lab.space.admin, UNAWAITED):
            taken = alternate(n, rounds.sandbox, rounds.fake, bare)
        rows.append(_row('the same where nobody waits for Neutron to wire a port', taken))


def _row(what: str, taken: list[list[float]]) -> Row:
    ours, fake, started = map(median, taken)
    return Row(
        key='i',
        what=what,
        unit='ms',
        ours=ours,
        raw=fake + started,
        target=f'<= {TARGET} x',
        met=ours <= TARGET * (fake + started),
        n=len(taken[0]),
        note=f'fake driver {fake:.0f} ms, create+start {started:.0f} ms',
    )
