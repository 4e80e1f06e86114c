"""A PostgreSQL server for tests: on a socket in a directory of its own, gone with the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

_PROGRAMS = [found.parent for found in pathlib.Path('/usr/lib/postgresql').glob('*/bin/initdb')]
THERE = bool(_PROGRAMS) and importlib.util.find_spec('psycopg') is not None
"""Whether there is what `served` takes: Debian's server and the library."""

_SECONDS = 60


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Start a server, and give the URL of an empty database."""
    # a path of a socket has 107 bytes, and pytest's directories use most of them
    folder = pathlib.Path(tempfile.mkdtemp(prefix='zun-pg-'))
    if not os.getuid():
        shutil.chown(folder, 'nobody')
    data = str(folder / 'data')
    try:
        words = ('--locale=C.UTF-8', '--encoding=UTF8', '--auth=trust', '--no-sync')
        _run('initdb', '-D', data, '-U', 'zun', *words)
        listen = f"-c listen_addresses='' -k {folder} -F"
        _run('pg_ctl', '-D', data, '-w', '-o', listen, '-l', str(folder / 'log'), 'start')
        try:
            yield f'postgresql+psycopg://zun@/postgres?host={folder}'
        finally:
            _run('pg_ctl', '-D', data, '-w', '-m', 'immediate', 'stop')
    finally:
        shutil.rmtree(folder)


def _run(program: str, *arguments: str) -> None:
    """Run one of its programs, none of which root may."""
    user = 'nobody' if not os.getuid() else None
    command = [str(_PROGRAMS[-1] / program), *arguments]
    subprocess.run(
        command, check=True, timeout=_SECONDS, user=user, cwd='/', stdout=subprocess.DEVNULL
    )
