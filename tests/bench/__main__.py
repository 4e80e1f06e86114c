"""``python -m tests.bench [a b c ... l]``: measures, and prints one table."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import platform
import signal
import sys
import time

from tests.bench.lab import Lab
from tests.bench.measure import Row, loaded, table

# In the order in which they run; the agent's memory is looked at when it has worked.
BENCHMARKS = {
    'a': 'spawn.run',
    'h': 'interfaces.run',
    'l': 'scale.run',
    'b': 'joined.start',
    'c': 'joined.many',
    'd': 'reading.answers',
    'f': 'servers.create',
    'i': 'active.run',
    'g': 'servers.many',
    'j': 'crowd.run',
    'k': 'hot.run',
    'e': 'reading.memory',
}


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m tests.bench', description=__doc__)
    parser.add_argument('keys', nargs='*', metavar='a..l', help='all, unless said otherwise')
    asked = parser.parse_args().keys or list(BENCHMARKS)
    if unknown := set(asked) - set(BENCHMARKS):
        parser.error(f'no benchmark {", ".join(sorted(unknown))}')
    # Whoever ends it early leaves as little behind as its own end does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows: list[Row] = []
    try:
        with contextlib.ExitStack() as stack:
            lab = Lab(stack)
            for key in BENCHMARKS:
                if key in asked:
                    run(key, rows, lab)
    finally:
        rows.sort(key=lambda row: row.key)
        print(f'{heading()}\n\n{table(rows)}')
    return 0 if all(row.met is not False for row in rows) else 1


def run(key: str, rows: list[Row], lab: Lab) -> None:
    """Run one of them; its modules are loaded only then, the driver's with all of nova."""
    module, _, function = BENCHMARKS[key].partition('.')
    print(f'({key}) {BENCHMARKS[key]} ...', file=sys.stderr, flush=True)
    with loaded(rows):
        getattr(importlib.import_module(f'tests.bench.{module}'), function)(rows, lab)


def heading() -> str:
    """Return when and on what it was measured."""
    moment = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    return f'{moment}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}'


if __name__ == '__main__':
    sys.exit(main())
