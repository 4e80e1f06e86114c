"""Connections that are kept: a real client, a socket that counts who connects."""

import re

import pytest

from tests.unit.engine import serving
from zun_agent import errors, runtime


@pytest.fixture
def engine(tmp_path):
    with serving(tmp_path / 'docker.sock', {'version': {'ApiVersion': '1.41'}}) as made:
        yield made


def test_one_connection_serves_all_containers(engine):
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    agent.inspect('first')
    before = engine.connections
    for number in range(30):
        assert agent.inspect(f'container-{number}') is None
    assert engine.connections == before
    agent.close()


@pytest.mark.parametrize(('since', 'asked'), [(None, []), (0, []), (-9, []), (5, ['since=5'])])
def test_the_log_since_the_beginning_is_the_whole_log(engine, since, asked):
    engine.answers |= {'json': {'Config': {'Tty': True}}, 'logs': 'text'}
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    assert agent.logs('first', since=since) == '"text"'
    (path,) = (path for path in engine.asked if '/logs?' in path)
    assert re.findall(r'since=[^&]*', path) == asked
    agent.close()


def test_an_engine_that_is_replaced_is_spoken_to_in_its_own_version(engine):
    engine.answers |= {'version': {'ApiVersion': '1.51'}, 'create': {'Id': 'one'}}
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    agent.inspect('first')
    for newest in ('1.41', '1.51'):
        least = {'1.41': '1.12', '1.51': '1.44'}[newest]
        engine.answers['version'] = {'ApiVersion': newest, 'MinAPIVersion': least}
        engine.asked.clear()
        # A refusal that got through would be taken for the fault of its user.
        assert agent.create('first', {}) == 'one'
        assert engine.asked[-1].startswith(f'/v{newest}/containers/create')
        assert agent.inspect('first') is None
        assert engine.asked[-1] == f'/v{newest}/containers/first/json'
        assert engine.asked.count('/version') == 1
    agent.close()


def test_an_engine_that_refuses_its_own_version_is_not_asked_for_ever(engine):
    engine.answers['version'] = {'ApiVersion': '1.41', 'MinAPIVersion': '1.44'}
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    with pytest.raises(errors.Invalid, match='too old'):
        agent.start('first')
    assert len(engine.asked) == 3
    agent.close()


def test_what_a_user_says_is_no_refusal_of_a_version(engine):
    words = 'exec: "client version 9 is too new": executable file not found in $PATH'
    engine.answers |= {'version': {'ApiVersion': '1.41'}, 'start': (400, words)}
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    with pytest.raises(errors.Invalid, match='executable file not found'):
        agent.start('first')
    assert engine.asked == ['/version', '/v1.41/containers/first/start']
    agent.close()


def test_an_image_that_no_registry_has_is_told_in_dockers_words(engine):
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    with pytest.raises(errors.ImageNotFound, match=r'^No such container$'):
        agent.pull('nosuch', 'latest')
    agent.close()


def test_a_pull_that_fails_within_its_stream_is_told(engine):
    """Docker has said 200 by then; an older image of that name must not be taken for it."""
    engine.answers |= {
        'version': {'ApiVersion': '1.41'},
        'create': {'error': 'filesystem layer verification failed for digest sha256:1'},
    }
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    with pytest.raises(errors.DockerError, match='box:latest: filesystem layer verification'):
        agent.pull('box', 'latest')
    agent.close()


def test_what_its_killing_has_thawed_needs_no_thawing(engine):
    failed = 'Cannot unpause container one: OCI runtime resume failed: '
    engine.answers['unpause'] = [failed + 'container not paused', failed + 'no such process']
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    agent.unpause('one')
    with pytest.raises(errors.DockerError, match='no such process'):
        agent.unpause('one')
    agent.close()
