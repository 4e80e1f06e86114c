"""One agent of which the world is in memory, a sandbox on its host, and a container in that."""

import pytest

from tests.unit.agent.fakes import World
from zun_agent.models import Status


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def box(world):
    return world.box()


@pytest.fixture
def running(world, box):
    uuid = world.container(box)
    assert world.settle(uuid).status == Status.RUNNING
    return uuid
