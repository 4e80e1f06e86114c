"""(d), (e) What the API answers in a second, and the memory that the agent takes for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from tests.bench import memory as memory_of
from tests.bench.lab import Lab, at_once
from tests.bench.measure import Row, median, percentile, timed

CONTAINERS = 100
SANDBOXES = 10
THREADS = 4
MEMORY_TARGET = 130
_ROUNDS = 3


def answers(rows: list[Row], lab: Lab) -> None:
    """(d) GET of one container and the list of all, by several clients; Docker's own beside it."""
    records = lab.sandboxes(SANDBOXES)
    with lab.round():
        made = at_once(
            CONTAINERS,
            lambda number: lab.post_container(
                hints={'sandbox': records[number % SANDBOXES].instance_id}
            ),
            THREADS,
        )
        lab.until_running(*made, timeout=120)
        engine, turns = lab.engine.api, itertools.cycle(made)
        names = itertools.cycle([one['Id'] for one in engine.containers()])
        rows.append(
            _compare(
                f'GET of one, {THREADS} clients; inspect',
                200,
                lambda: lab.request('AGENT', 'GET', f'/v1/containers/{next(turns)}'),
                lambda: engine.inspect_container(next(names)),
            )
        )
        assert len(lab.containers()) >= CONTAINERS
        rows.append(
            _compare(
                f"list of {CONTAINERS}, {THREADS} clients; Docker's list",
                60,
                lambda: lab.request('AGENT', 'GET', '/v1/containers'),
                engine.containers,
            )
        )


def _compare(
    what: str, requests: int, ours: Callable[[], object], bare: Callable[[], object]
) -> Row:
    rates: dict[int, list[float]] = {0: [], 1: []}
    latencies: list[float] = []
    for turn in range(-1, _ROUNDS):
        for side, act in enumerate((ours, bare)):
            begin = time.perf_counter()
            taken = at_once(requests, lambda _, act=act: timed(lambda: act() and None), THREADS)
            if turn >= 0:
                rates[side].append(requests / (time.perf_counter() - begin))
                latencies += taken if side == 0 else []
    return Row(
        key='d',
        what=what,
        unit='/s',
        ours=median(rates[0]),
        raw=median(rates[1]),
        n=_ROUNDS * requests,
        note=f'p50 {median(latencies):.1f} ms, p95 {percentile(latencies, 95):.1f} ms',
    )


def memory(rows: list[Row], lab: Lab) -> None:
    """(e) The agent's resident memory, after all that was measured before."""
    resident = memory_of.resident_mb(memory_of.family(memory_of.service('zun-agent')))
    rows.append(
        Row(
            key='e',
            what='resident memory of the agent',
            unit='MB',
            ours=resident,
            target=f'< {MEMORY_TARGET} MB',
            met=resident < MEMORY_TARGET,
        )
    )
