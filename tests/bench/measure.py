"""Samples, their statistics, and the table that shows them."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Act = Callable[[], float | None]
"""Does what is measured, and returns how long it took in ms; None: as long as the call."""


@dataclasses.dataclass(kw_only=True)
class Row:
    """One line of the table.

    :ivar key: letter of the benchmark
    :ivar ours: with `unit`, as is `raw`, what ours is compared with
    :ivar target: in words
    :ivar met: None where there is no target
    :ivar n: samples of each side
    :ivar note: what else is to be said
    """

    key: str
    what: str
    unit: str
    ours: float
    raw: float | None = None
    target: str = ''
    met: bool | None = None
    n: int = 1
    note: str = ''
    load: str = ''

    @property
    def ratio(self) -> float | None:
        """Ours as a part of the raw one."""
        return self.ours / self.raw if self.raw else None


def timed(act: Act) -> float:
    """Do it once; returns ms."""
    begin = time.perf_counter()
    said = act()
    return (time.perf_counter() - begin) * 1000 if said is None else said


_QUIET = 0.75
"""Part of the processors' time that nobody wants, before a sample is taken."""

_LOOK = 0.5
_PATIENCE = 15.0


def settle(patience: float = _PATIENCE) -> None:
    """Wait until what was asked before is done: a server that was deleted keeps others at work.

    :param patience: seconds after which it does not matter any more
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        idle, total = _processors()
        time.sleep(_LOOK)
        later, sum_later = _processors()
        if later - idle >= _QUIET * (sum_later - total):
            return


def _processors() -> tuple[int, int]:
    """Return the ticks that the processors were idle, and all, since the machine started."""
    first = pathlib.Path('/proc/stat').read_text().splitlines()[0]
    # The last two are in the others already.
    ticks = [int(number) for number in first.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def alternate(n: int, *sides: Act, warm_up: int = 1) -> list[list[float]]:
    """Take `n` samples of each side, in turn, so that the machine's mood hits all alike.

    Each begins when the machine is quiet.

    :param warm_up: rounds before that do not count
    :returns: for each side its samples, in ms
    """
    samples: list[list[float]] = [[] for _ in sides]
    for turn in range(-warm_up, n):
        order = list(zip(sides, samples, strict=True))
        # Who comes first meets what the one before left behind.
        for side, kept in order if turn % 2 else order[::-1]:
            settle()
            taken = timed(side)
            if turn >= 0:
                kept.append(taken)
    return samples


def median(samples: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(samples)


def percentile(samples: Sequence[float], part: int) -> float:
    """Return the value that `part` per cent of the samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * part / 100) - 1)]


@contextmanager
def loaded(rows: list[Row]) -> Iterator[None]:
    """Note the machine's load average before and after in the rows that were added within."""
    begin, first = os.getloadavg()[0], len(rows)
    yield
    for row in rows[first:]:
        row.load = f'{begin:.1f}/{os.getloadavg()[0]:.1f}'


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    heads = ('', 'what', 'ours', 'raw', 'ratio', 'target', 'met', 'n', 'load', '')
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    right = {2, 3, 4, 7}
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f'({row.key})',
        row.what,
        f'{row.ours:.{_digits(row.ours)}f} {row.unit}',
        '' if row.raw is None else f'{row.raw:.{_digits(row.raw)}f} {row.unit}',
        '' if row.ratio is None else f'{row.ratio:.2f}',
        row.target,
        {True: 'yes', False: 'NO', None: ''}[row.met],
        str(row.n),
        row.load,
        row.note,
    )


def _digits(value: float) -> int:
    return 0 if abs(value) >= 100 or isinstance(value, int) else 1
