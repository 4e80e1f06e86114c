"""Where the cloud is: the settings of ``tools/allinone``, and its commands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import subprocess
from collections.abc import Iterator

REPO = pathlib.Path(__file__).resolve().parents[2]
ALLINONE = REPO / 'tools' / 'allinone'


@dataclasses.dataclass(frozen=True)
class Settings:
    """What ``tools/cloud/settings.sh`` says."""

    values: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    @property
    def host(self) -> str:
        """The compute host of sandboxes, as Nova calls it."""
        return self['HOST']

    @property
    def state_path(self) -> pathlib.Path:
        """What driver and agent share."""
        return pathlib.Path(self['SANDBOX_STATE'])

    @property
    def logs(self) -> pathlib.Path:
        return pathlib.Path(self['LOG'])

    def log(self, service: str) -> pathlib.Path:
        return self.logs / f'{service}.log'

    def pid_file(self, service: str) -> pathlib.Path:
        return pathlib.Path(self['RUN']) / f'{service}.pid'

    def endpoint(self, service: str) -> str:
        return f'http://{self["IP"]}:{self[f"{service}_PORT"]}'


@functools.cache
def load() -> Settings:
    """Read the settings as the shell does, with what the environment overrides."""
    script = f'set -a; . {REPO}/tools/cloud/settings.sh; env -0'
    output = subprocess.run(
        ['bash', '-c', script], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    return Settings(dict(entry.split('=', 1) for entry in output.split('\0') if '=' in entry))


def allinone(*arguments: str, timeout: float = 300) -> str:
    """Run ``tools/allinone``, and return what it printed.

    :param timeout: seconds
    :raises AssertionError: it failed; the message holds its output
    """
    result = subprocess.run(
        [ALLINONE, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**os.environ, 'LC_ALL': 'C.UTF-8'},
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, f'allinone {" ".join(arguments)} failed:\n{output}'
    return output


@contextlib.contextmanager
def compute_options(text: str) -> Iterator[None]:
    """Have more lines in the configuration of nova-compute, which reads it when it starts.

    :param text: sections and their options, of which the last of a name holds
    """
    conf = load()
    path = pathlib.Path(conf['ETC'], f'nova-compute-{conf.host}', 'nova.conf')
    before = path.read_text()
    path.write_text(f'{before}\n{text}\n')
    try:
        yield
    finally:
        path.write_text(before)
