"""What the agent's unit tests share: a world in memory, a store, and a cloud on loopback."""

import os
import shutil
import types

import pytest
import sqlalchemy as sa

from tests.unit.agent import on_postgresql
from tests.unit.agent.fake_cloud import FakeCloud
from tests.unit.agent.fakes import World
from tests.unit.agent.managing import Images, Runtime
from zun_agent import models
from zun_agent.manager import Manager
from zun_agent.models import Status
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_virt import sandbox as contract

MYSQL_URL = os.environ.get('ZUN_TEST_MYSQL_URL', '').format(
    worker=os.environ.get('PYTEST_XDIST_WORKER', 'gw0')
)
"""Of a database of its own, which the tests empty; of several workers each has its own."""

SERVED = [
    pytest.param(
        'mysql', marks=pytest.mark.skipif(not MYSQL_URL, reason='ZUN_TEST_MYSQL_URL is not set')
    ),
    pytest.param(
        'postgresql',
        marks=pytest.mark.skipif(
            not on_postgresql.THERE, reason='there is no PostgreSQL, or no psycopg'
        ),
    ),
]
"""Databases of a server, for the fixture `url`."""


# One agent of which the world is in memory, a sandbox on its host, and a container in that


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


# The store


@pytest.fixture(scope='session')
def postgresql():
    with on_postgresql.served() as served:
        yield served


@pytest.fixture(params=['sqlite', *SERVED])
def url(request, tmp_path):
    if request.param == 'sqlite':
        yield f'sqlite:///{tmp_path}/store.sqlite'
        return
    served = MYSQL_URL if request.param == 'mysql' else request.getfixturevalue('postgresql')
    yield served
    engine = sa.create_engine(served)
    with engine.begin() as connection:
        models.Base.metadata.drop_all(connection)
        connection.execute(sa.text('DROP TABLE IF EXISTS alembic_version'))
    engine.dispose()


@pytest.fixture(scope='session')
def migrated(tmp_path_factory):
    path = tmp_path_factory.mktemp('store') / 'store.sqlite'
    made = Store(f'sqlite:///{path}')
    made.migrate()
    made.close()
    return path


@pytest.fixture
def store(url, migrated):
    if url.startswith('sqlite'):
        shutil.copy(migrated, url.removeprefix('sqlite:///'))
    made = Store(url)
    made.migrate()
    yield made
    made.close()


# The cloud, and its sandboxes as the agent sees them


@pytest.fixture
def cloud():
    made = FakeCloud()
    yield made
    made.close()


@pytest.fixture
def local(tmp_path):
    made = contract.SandboxStore(tmp_path)
    made.prepare()
    return made


@pytest.fixture
def sandboxes(cloud, local):
    return Sandboxes(cloud.conf(), local)


@pytest.fixture
def uncached(cloud, local):
    return Sandboxes(
        cloud.conf(sandbox__nova_cache_seconds=0, sandbox__server_cache_seconds=0), local
    )


# What the API hands requests on to


@pytest.fixture
def agent(cloud, migrated, local, tmp_path):
    conf = cloud.conf(sandbox__nova_cache_seconds=0, sandbox__server_cache_seconds=0)
    shutil.copy(migrated, tmp_path / 'store.sqlite')
    made = types.SimpleNamespace(
        conf=conf,
        cloud=cloud,
        store=Store(f'sqlite:///{tmp_path}/store.sqlite'),
        local=local,
        images=Images(),
        runtime=Runtime(),
        woken=[],
        context=cloud.context(),
    )
    made.sandboxes = Sandboxes(conf, local)
    made.manager = Manager(
        conf,
        made.store,
        made.runtime,
        made.sandboxes,
        made.images,
        lambda container, since: made.woken.append(container.uuid),
        host='one',
    )
    yield made
    made.store.close()
