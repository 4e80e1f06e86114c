"""The store in a server's database, which limits waits, loses connections and finds deadlocks."""

import concurrent.futures
import threading

import pytest
import sqlalchemy as sa

from tests.unit.agent.conftest import SERVED
from tests.unit.agent.stored import container
from zun_agent.database import Database
from zun_agent.models import Container

SERVED_URLS = pytest.mark.parametrize('url', SERVED, indirect=True)

_LIMIT = {
    'mysql': 'SELECT @@innodb_lock_wait_timeout',
    'postgresql': "SELECT extract(epoch from current_setting('lock_timeout')::interval)",
}
_OTHERS = {
    'mysql': 'SELECT id FROM information_schema.processlist WHERE db = database() '
    'AND id <> connection_id()',
    'postgresql': 'SELECT pid FROM pg_stat_activity WHERE datname = current_database() '
    'AND pid <> pg_backend_pid()',
}
_END = {'mysql': 'KILL %s', 'postgresql': 'SELECT pg_terminate_backend(%s)'}


@SERVED_URLS
def test_nobody_waits_for_a_lock_for_ever(store):
    for engine in (store._database.engine, store._database._reading):
        with engine.connect() as connection:
            assert connection.exec_driver_sql(_LIMIT[engine.dialect.name]).scalar() == 10


@pytest.mark.parametrize('url', SERVED[1:], indirect=True)
def test_an_operators_url_has_its_way(url):
    mine = f'{url}&options=-c%20lock_timeout%3D7s&connect_timeout=9'
    database = Database(mine)
    with database.engine.connect() as connection:
        limits = connection.connection.dbapi_connection.info.get_parameters()
        for name, limit in (('lock_timeout', '7s'), ('statement_timeout', '30s')):
            assert connection.exec_driver_sql(f'SHOW {name}').scalar() == limit
    assert limits['connect_timeout'] == '9'
    assert limits['keepalives_idle'] == '10'
    with database.migration() as connection:
        assert connection.exec_driver_sql('SHOW statement_timeout').scalar() == '0'
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql('SHOW statement_timeout').scalar() == '30s'
    database.close()


@SERVED_URLS
def test_lost_connections_are_made_anew(store):
    made = container()
    store.add_container(made)
    assert store.container(made.uuid).name == made.name
    kind = store._database.engine.dialect.name
    engine = sa.create_engine(store._database._url, isolation_level='AUTOCOMMIT')
    with engine.connect() as connection:
        others = connection.exec_driver_sql(_OTHERS[kind]).scalars().all()
        for other in others:
            connection.exec_driver_sql(_END[kind] % other)
    engine.dispose()
    assert len(others) >= 2  # of both pools
    assert store.container(made.uuid).name == made.name
    store.add_container(container())


@SERVED_URLS
def test_of_two_that_wait_for_each_other_one_tries_again(store):
    ones = [container(), container()]
    for one in ones:
        store.add_container(one)
    both, attempts = threading.Barrier(2), []

    def count(first, second):
        tried = []

        def work(session):
            attempts.append(1)
            tried.append(1)
            session.get(Container, first.id).restart_count += 1
            session.flush()
            if len(tried) == 1:
                both.wait(10)
            session.get(Container, second.id).restart_count += 1
            session.flush()

        store._database.write(work)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(count, ones, reversed(ones)))
    assert len(attempts) == 3
    assert [store.container(one.uuid).restart_count for one in ones] == [2, 2]
