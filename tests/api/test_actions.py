"""What containers are told to do, and what their host tells of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.api.conftest import Api, title
from tests.api.fakes import FakeManager
from zun_agent import errors
from zun_agent.api.actions import signal_name
from zun_agent.models import Status


@pytest.fixture
def url(manager: FakeManager) -> str:
    return f'/v1/containers/{manager.add(name="c1").uuid}'


@pytest.mark.parametrize(
    ('action', 'status', 'after'),
    [
        ('start', Status.STOPPED, Status.RUNNING),
        ('stop', Status.RUNNING, Status.STOPPED),
        ('pause', Status.RUNNING, Status.PAUSED),
        ('unpause', Status.PAUSED, Status.RUNNING),
        ('reboot', Status.STOPPED, Status.RUNNING),
        ('kill', Status.RUNNING, Status.RUNNING),
    ],
)
@pytest.mark.parametrize('version', ['1.1', '1.12', '1.18', '1.40'])
def test_actions(
    api: Api, manager: FakeManager, action: str, status: Status, after: Status, version: str
) -> None:
    container = manager.add(name='c1', status=status)
    answer = api('POST', f'/v1/containers//c1/{action}', version=version)
    assert (answer.status_code, answer.data) == (202, b'null')
    assert container.status == after


def test_a_wrong_state(api: Api, manager: FakeManager) -> None:
    container = manager.add(name='c1', status=Status.STOPPED)
    answer = api('POST', '/v1/containers/c1/stop')
    assert answer.status_code == 409
    assert title(answer) == f'Cannot stop container {container.uuid} in Stopped state'
    assert answer.json['errors'][0]['code'] == 'container.invalid-state-exception'


@pytest.mark.parametrize('action', ['start', 'pause', 'unpause'])
def test_actions_without_parameters_take_none(api: Api, url: str, action: str) -> None:
    answer = api('POST', f'{url}/{action}?fast=1')
    assert answer.status_code == 400
    assert "'fast' was unexpected" in title(answer)


@pytest.mark.parametrize(
    ('query', 'body', 'timeout'),
    [
        ('', None, None),
        ('?timeout=10', None, 10),
        ('?timeout=0', None, 0),
        ('?timeout=', None, None),
        ('?timeout=None', None, None),
        ('', {'timeout': 7}, 7),
        ('', {'timeout': '7'}, 7),
        ('', {'timeout': ''}, None),
    ],
)
@pytest.mark.parametrize(('action', 'call'), [('stop', 'stop'), ('reboot', 'restart')])
def test_timeouts(
    api: Api, manager: FakeManager, url: str, query: str, body: Any, timeout: Any, action: str,
    call: str,
) -> None:  # fmt: skip
    assert api('POST', f'{url}/{action}{query}', body).status_code == 202
    assert manager.called(call) == [{'timeout': timeout}]


@pytest.mark.parametrize('query', ['timeout=-1', 'timeout=soon', 'timeout=1.5', 'when=now'])
def test_bad_timeouts(api: Api, manager: FakeManager, url: str, query: str) -> None:
    for action in ('stop', 'reboot'):
        assert api('POST', f'{url}/{action}?{query}').status_code == 400
    assert not manager.called('stop')


@pytest.mark.parametrize(
    ('given', 'name'),
    [
        (None, None),
        ('', None),
        ('None', None),
        ('SIGKILL', 'KILL'),
        ('kill', 'KILL'),
        ('sighup', 'HUP'),
        ('9', 'KILL'),
        (15, 'TERM'),
        ('40', '40'),
        ('RTMIN+3', 'RTMIN+3'),
        ('SIGRTMIN', 'RTMIN'),
        ('SIGRTMAX-1', 'RTMAX-1'),
    ],
)
def test_signals(given: Any, name: str | None) -> None:
    assert signal_name(given) == name


@pytest.mark.parametrize('given', ['SIGNOT', '0', '65', '-1', 'KILL;ls', 'RTMIN+300', 0, '\uff19'])
def test_bad_signals(given: Any) -> None:
    with pytest.raises(errors.Invalid, match='signal'):
        signal_name(given)


def test_kill(api: Api, manager: FakeManager, url: str) -> None:
    for query, body in (
        ('?signal=None', None),
        ('?signal=SIGUSR1', None),
        ('', {'signal': 'TERM'}),
        ('', {'signal': 1}),
    ):
        assert api('POST', f'{url}/kill{query}', body).status_code == 202
    names = [call['signal'] for call in manager.called('kill')]
    assert names == [None, 'USR1', 'TERM', 'HUP']
    assert api('POST', f'{url}/kill?signal=SIGNOT').status_code == 400


# --- execute


@pytest.mark.parametrize(
    ('query', 'body', 'command'),
    [
        ('?command=ls', None, ['ls']),
        ('?command=%22ls%22+%22-l%22&run=True&interactive=False', None, ['ls', '-l']),
        ('', {'command': 'echo hello'}, ['echo', 'hello']),
        ('', {'command': "sh -c 'a  b'", 'run': True, 'interactive': False}, ['sh', '-c', 'a  b']),
        ('?command=None&run=true', {'command': 'id'}, ['id']),
    ],
)
def test_execute(
    api: Api, manager: FakeManager, url: str, query: str, body: Any, command: list[str]
) -> None:
    answer = api('POST', f'{url}/execute{query}', body)
    assert answer.status_code == 200, answer.text
    assert manager.called('execute') == [{'command': command}]
    assert answer.json == {
        'output': ' '.join(command) + '\n',
        'exit_code': 0,
        'exec_id': None,
        'proxy_url': None,
    }


@pytest.mark.parametrize(
    ('query', 'status', 'named'),
    [
        ('', 400, 'command'),
        ('?command=', 400, 'command'),
        ('?command=+', 400, 'command'),
        ('?command=echo+%22', 400, 'command'),
        ('?command=ls&shell=true', 400, 'shell'),
        ('?command=ls&interactive=perhaps', 400, 'interactive'),
        ('?command=sh&interactive=True&run=False', 501, 'Interactive'),
        ('?command=sh&run=False', 501, 'Interactive'),
    ],
)
def test_bad_executes(
    api: Api, manager: FakeManager, url: str, query: str, status: int, named: str
) -> None:
    answer = api('POST', f'{url}/execute{query}')
    assert answer.status_code == status
    assert named in title(answer)
    assert not manager.called('execute')


def test_commands_leave_threads_for_others(
    api: Api, manager: FakeManager, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for as long as its user likes; half of the 32 threads may do so.

    One project may have half of these, so that another's commands find room.
    """
    begun, end = threading.Semaphore(0), threading.Event()

    def execute(*_: Any) -> tuple[str, int]:
        begun.release()
        assert end.wait(10)
        return '', 0

    monkeypatch.setattr(manager, 'execute', execute)
    urls = {'token': url, 'admin': url}
    urls['other'] = f'/v1/containers/{manager.add(project_id="elsewhere").uuid}'
    statuses: list[int] = []

    def command(token: str) -> Any:
        return api('POST', f'{urls[token]}/execute?command=sleep', token=token)

    threads = []
    for token, refusal in (
        ('token', 'Too many commands of your project are running; try again later.'),
        ('other', 'Too many commands are running; try again later.'),
    ):
        for _ in range(8):
            work = threading.Thread(
                target=lambda who: statuses.append(command(who).status_code), args=[token]
            )
            work.start()
            threads.append(work)
            assert begun.acquire(timeout=10)
        refused = command('token' if len(threads) == 8 else 'admin')
        assert (refused.status_code, title(refused)) == (503, refusal)
    assert api('GET', url).status_code == 200
    end.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
    for token in urls:
        assert command(token).status_code == 200


# --- logs


@pytest.mark.parametrize(
    ('query', 'expected'),
    [
        ('', {}),
        ('?stdout=True&stderr=False', {'stderr': False}),
        ('?stdout=false&stderr=false', {}),
        ('?stdout=0', {'stdout': False}),
        ('?timestamps=True&tail=all&since=None', {'timestamps': True}),
        ('?tail=10', {'tail': 10}),
        ('?tail=0', {'tail': 0}),
        ('?tail=', {}),
        ('?since=1700000000', {'since': 1700000000}),
        ('?since=2023-11-14+22:13:20,500', {'since': 1700000000}),
        ('?since=2023-11-14+22:13:20', {'since': 1700000000}),
    ],
)
def test_logs(
    api: Api, manager: FakeManager, url: str, query: str, expected: dict[str, Any]
) -> None:
    answer = api('GET', f'{url}/logs{query}')
    assert answer.json == 'hällo\nworld\n'
    defaults = {'stdout': True, 'stderr': True, 'timestamps': False, 'tail': None, 'since': None}
    assert manager.called('logs') == [{**defaults, **expected}]


@pytest.mark.parametrize(
    'query',
    ['stdout=perhaps', 'tail=some', 'tail=-1', 'since=yesterday', 'since=2023-13-45+00:00:00',
     'follow=true'],
)  # fmt: skip
def test_bad_logs(api: Api, manager: FakeManager, url: str, query: str) -> None:
    assert api('GET', f'{url}/logs?{query}').status_code == 400
    assert not manager.called('logs')


# --- top and stats


@pytest.mark.parametrize(
    ('query', 'ps_args'),
    [('', None), ('?ps_args=None', None), ('?ps_args=-o+pid,comm', '-o pid,comm')],
)
def test_top(api: Api, manager: FakeManager, url: str, query: str, ps_args: str | None) -> None:
    assert api('GET', f'{url}/top{query}').json == {
        'Titles': ['PID', 'CMD'],
        'Processes': [['1', 'sh']],
    }
    assert manager.called('top') == [{'ps_args': ps_args}]


def test_bad_top(api: Api, manager: FakeManager, url: str) -> None:
    assert api('GET', f'{url}/top?ps_args=$(id)').status_code == 400
    assert not manager.called('top')


def test_stats(api: Api, url: str) -> None:
    assert api('GET', f'{url}/stats').json['MEM USAGE(MiB)'] == 1.5
