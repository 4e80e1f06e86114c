"""Connections that are kept: a real client, a socket that counts who connects."""

import re

import pytest

from tests.unit.engine import serving
from zun_agent import runtime


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
