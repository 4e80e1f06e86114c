"""Another server of Nova's API, with options of its own."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

import requests

from tests.cloud import settings
from tests.cloud.second_agent import free_port
from tests.cloud.waiting import wait_until


@contextlib.contextmanager
def running(directory: pathlib.Path, options: str) -> Iterator[str]:
    """Run it on the cloud's databases; yields the URL of its API.

    :param directory: for its configuration and its log
    :param options: lines for its section DEFAULT
    """
    conf = settings.load()
    theirs = pathlib.Path(conf['ETC'], 'nova')
    for name, more in (('nova.conf', f'\n[DEFAULT]\n{options}\n'), ('api-paste.ini', '')):
        (directory / name).write_text((theirs / name).read_text() + more)
    address = f'{conf["IP"]}:{free_port()}'
    log = directory / 'nova-api.log'
    command = [f'{conf["VENV"]}/bin/uwsgi', '--http-socket', address, '--master', '--need-app']
    command += ['--module', 'nova.wsgi.osapi_compute:application', '--lazy-apps', '--die-on-term']
    command += ['--enable-threads', '--buffer-size', '65535', '--pyargv', '']
    command += ['--add-header', 'Connection: close']
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(log.open('wb'))
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd='/',
            env={'PATH': conf['PATH'], 'LC_ALL': 'C.UTF-8', 'OS_NOVA_CONFIG_DIR': str(directory)},
        )
        stack.callback(server.wait, 30)
        stack.callback(server.terminate)
        url = f'http://{address}'
        wait_until('nova-api answers', lambda: _answers(url), timeout=90, explain=log.read_text)
        yield f'{url}/v2.1'


def _answers(url: str) -> bool:
    try:
        return requests.get(f'{url}/', timeout=10).status_code < 400
    except (requests.ConnectionError, requests.Timeout):
        return False
