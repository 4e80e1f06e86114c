"""Two agents of one cloud: whichever is asked, the container's own host does it."""

from __future__ import annotations

import functools
import pathlib
import time
import typing
from collections.abc import Iterator

import pytest
import requests

from tests.cloud import faults, host, second_agent, settings
from tests.cloud.cloud import Workspace, shown_addresses
from tests.cloud.users import User
from tests.cloud.waiting import wait_until

pytestmark = pytest.mark.alone

TALKS = ['sh', '-c', 'trap "exit 0" TERM; echo began; sleep 3600 & wait']

Ask = typing.Callable[..., requests.Response]


@pytest.fixture(scope='module')
def url(shared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another agent."""
    directory: pathlib.Path = tmp_path_factory.mktemp('second')
    with second_agent.running(directory) as answered:
        yield answered


@pytest.fixture
def ask(space: Workspace, url: str) -> Ask:
    """Ask the other agent, of a host on which the container is not."""
    return functools.partial(space.user.request, endpoint=url)


def test_both_are_listed(admin: User, url: str) -> None:
    def states() -> dict[str, str]:
        rows = admin.cli_json('appcontainer', 'service', 'list')
        return {row['Host']: row['State'] for row in rows}

    wait_until(
        'both up',
        lambda: states().items() >= {settings.load().host: 'up', second_agent.NAME: 'up'}.items(),
        timeout=20,
        interval=1,
    )


def test_the_other_takes_requests_and_hands_them_on(
    space: Workspace, sandbox: str, ask: Ask
) -> None:
    user = space.user
    body = {
        'name': space.name(),
        'image': 'alpine',
        'command': TALKS,
        'hints': {'sandbox': sandbox},
    }
    made = ask('POST', '/v1/containers?run=true', json=body)
    assert made.status_code == 202, made.text
    one = space.adopt(made.json()['uuid'])
    user.wait(one, 'Running', timeout=15)

    addresses = shown_addresses(user, one)
    shown = ask('GET', f'/v1/containers/{one}').json()
    assert shown['status'] == 'Running'
    assert shown['addresses'] == addresses
    assert one in {each['uuid'] for each in ask('GET', '/v1/containers').json()['containers']}
    assert ask('GET', f'/v1/containers/{one}/logs').json() == 'began\n'
    ran = ask('POST', f'/v1/containers/{one}/execute?command=echo+hello&run=true&interactive=false')
    assert (ran.json()['output'], ran.json()['exit_code']) == ('hello\n', 0)
    assert 'PID' in ask('GET', f'/v1/containers/{one}/top').text

    begin = time.monotonic()
    assert ask('POST', f'/v1/containers/{one}/stop?timeout=5').status_code == 202
    user.wait(one, 'Stopped', timeout=5)
    assert time.monotonic() - begin < 3, 'its host was not told at once'
    assert ask('POST', f'/v1/containers/{one}/start').status_code == 202
    user.wait(one, 'Running', timeout=10)
    gone = ask('DELETE', f'/v1/containers/{one}?stop=true')
    assert gone.status_code == 204, gone.text
    user.wait(one, 'gone', timeout=20)
    assert ask('GET', f'/v1/containers/{one}').status_code == 404


def test_a_new_sandbox_is_claimed_where_it_appears(space: Workspace, ask: Ask) -> None:
    made = ask('POST', '/v1/containers?run=true', json={'name': space.name(), 'image': 'alpine',
                                                        'command': TALKS})  # fmt: skip
    assert made.status_code == 202, made.text
    one = space.adopt(made.json()['uuid'])
    space.user.wait(one, 'Running')
    assert space.admin.show(one).host == settings.load().host
    assert len(host.copies(one)) == 1


@pytest.mark.faults
def test_one_away(space: Workspace, sandbox: str, ask: Ask) -> None:
    """What is recorded can be read, what only the host knows cannot, and requests are kept."""
    one = space.running(sandbox=sandbox, command=TALKS)
    faults.kill('zun-agent')
    try:
        assert ask('GET', f'/v1/containers/{one}').json()['status'] == 'Running'
        assert ask('GET', '/v1/containers').status_code == 200
        logs = ask('GET', f'/v1/containers/{one}/logs')
        assert logs.status_code in (409, 503), logs.text
        assert f'{one} does not answer' in logs.json()['errors'][0]['detail']
        assert ask('POST', f'/v1/containers/{one}/stop?timeout=5').status_code == 202
        assert host.container(one).status == 'running'
    finally:
        faults.restart_agent()
    space.user.wait(one, 'Stopped', timeout=10)
