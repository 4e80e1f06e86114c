"""(b), (c) Containers in sandboxes that exist, against the same containers by bare Docker."""

from __future__ import annotations

import time

from tests.bench.lab import Lab, at_once
from tests.bench.measure import Row, alternate, median

START_TARGET = 1.3
MANY = 20
SANDBOXES = 10
THROUGHPUT_TARGET = 0.8


def start(rows: list[Row], lab: Lab, *, n: int = 20) -> None:
    """(b) From the POST until the API says Running."""
    (record,) = lab.sandboxes(1)

    def posted() -> None:
        lab.until_running(lab.post_container(hints={'sandbox': record.instance_id}))

    def bare() -> None:
        lab.engine.joined(record)

    with lab.round():
        ours, bare_ones = alternate(n, posted, bare, warm_up=2)
    rows.append(
        Row(
            key='b',
            what='POST to Running in a sandbox; create+start',
            unit='ms',
            ours=median(ours),
            raw=median(bare_ones),
            target=f'<= {START_TARGET} x',
            met=median(ours) <= START_TARGET * median(bare_ones),
            n=n,
        )
    )


def many(rows: list[Row], lab: Lab, *, n: int = 9) -> None:
    """(c) Many at once, until the API says Running of all."""
    records = lab.sandboxes(SANDBOXES)

    def posted() -> float:
        def post(number: int) -> str:
            chosen = records[number % SANDBOXES].instance_id
            return lab.post_container(hints={'sandbox': chosen})

        with lab.round():
            begin = time.perf_counter()
            lab.until_running(*at_once(MANY, post))
            return (time.perf_counter() - begin) * 1000

    def bare() -> float:
        with lab.round():
            begin = time.perf_counter()
            at_once(MANY, lambda number: lab.engine.joined(records[number % SANDBOXES]))
            return (time.perf_counter() - begin) * 1000

    ours, bare_ones = (
        MANY * 1000 / median(samples) for samples in alternate(n, posted, bare, warm_up=1)
    )
    rows.append(
        Row(
            key='c',
            what=f'{MANY} containers at once in {SANDBOXES} sandboxes, no failure',
            unit='/s',
            ours=ours,
            raw=bare_ones,
            target=f'>= {THROUGHPUT_TARGET} x',
            met=ours >= THROUGHPUT_TARGET * bare_ones,
            n=n,
        )
    )
