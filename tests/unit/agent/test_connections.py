"""Connections that are kept: a real client, a socket that counts who connects."""

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
