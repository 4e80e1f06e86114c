"""The API under a server that is not the agent's own, beside the agent."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

import requests

from tests.cloud import host, settings
from tests.cloud.cloud import Workspace
from tests.cloud.second_agent import free_port
from tests.cloud.waiting import wait_until


@contextlib.contextmanager
def served(directory: pathlib.Path) -> Iterator[str]:
    """Serve it by uWSGI, on the agent's configuration; yields its URL."""
    conf = settings.load()
    address, log = f'{conf["IP"]}:{free_port()}', directory / 'uwsgi.log'
    command = [
        'setpriv',
        '--reuid=zun',
        '--regid=zun',
        '--clear-groups',
        f'{conf["VENV"]}/bin/uwsgi',
    ]
    command += ['--http-socket', address, '--module', 'zun_agent.api.wsgi:application']
    # as uWSGI does it by default: the application is made before its workers are forked
    command += ['--master', '--need-app', '--processes', '2', '--die-on-term', '--enable-threads']
    command += ['--add-header', 'Connection: close']  # it closes them, and does not say so
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(log.open('wb'))
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd='/',
            env={
                'PATH': conf['PATH'],
                'ZUN_AGENT_CONFIG_FILE': f'{conf["ETC"]}/zun/zun-agent.conf',
            },
        )
        stack.callback(server.wait, 30)
        stack.callback(server.terminate)
        url = f'http://{address}'
        wait_until('uWSGI answers', lambda: _answers(url), timeout=60, explain=log.read_text)
        yield f'{url}/v1'


def _answers(url: str) -> bool:
    try:
        return requests.get(f'{url}/', timeout=10).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


def test_the_life_of_a_container(space: Workspace, sandbox: str, tmp_path: pathlib.Path) -> None:
    """It only writes down what is wanted, and hands on to the agent what cannot wait."""
    user = space.user
    with served(tmp_path) as url:
        there = user.at('1.40', url).containers
        command = ['sh', '-c', 'echo began; trap "exit 3" TERM; sleep 3600 & wait']
        made = there.run(image='alpine', command=command, hints={'sandbox': sandbox}).uuid
        space.adopt(made)
        user.wait(made, 'Running')
        assert there.get(made).addresses == user.show(made).addresses
        said = there.execute(made, command='hostname', run=True, interactive=False)
        assert (said['output'], said['exit_code']) == (user.shell(made, 'hostname'), 0)
        assert there.logs(made, stdout=True, stderr=True) == 'began\n'
        there.stop(made, timeout=10)
        user.wait(made, 'Stopped')
        assert host.container(made).attrs['State']['ExitCode'] == 3
        there.delete(made, force=False)
        wait_until('it is gone', lambda: not host.copies(made), timeout=20)
