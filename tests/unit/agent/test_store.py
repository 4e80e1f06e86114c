"""The store: its schema, its containers and agents, and a database that is in trouble."""

import concurrent.futures
import datetime
import sqlite3
import stat
import threading
import uuid

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import exc

from tests.unit.agent.stored import action, container
from zun_agent import database, errors, migrations, models
from zun_agent.models import Container, Desired, Status
from zun_agent.store import Store

# The schema


def test_the_migrations_make_what_the_models_say(store, url):
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={'compare_type': False})
        differences = compare_metadata(context, models.Base.metadata)
    engine.dispose()
    assert differences == []


@pytest.mark.parametrize('revision', ['0001', '0002'])
def test_records_outlive_an_upgrade(url, revision):
    kept = Store(url)
    one = {'uuid': str(uuid.uuid4()), 'name': 'web', 'project_id': 'p1', 'user_id': 'u1'}
    with kept._database.migration() as connection:
        migrations.upgrade(connection, revision)
        # of the columns that are new since, none has a value
        connection.execute(
            sa.insert(Container.__table__).values(**one, image='nginx', labels={'a': 'b'})
        )
    kept.migrate()
    found = kept.container(one['uuid'])
    assert (found.name, found.labels, found.status) == ('web', {'a': 'b'}, Status.CREATING)
    again = kept.request(one['uuid'], action=action('stop'), desired=Desired.STOPPED)
    assert again.generation == found.generation + 1
    kept.close()


def test_agents_that_start_together_migrate_one_after_the_other(url):
    stores = [Store(url) for _ in range(4)]
    barrier = threading.Barrier(4)

    def start(each):
        barrier.wait(10)
        each.migrate()
        each.add_container(container())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(start, stores))
    assert len(stores[0].page('p1')) == 4
    for each in stores:
        each.close()


def test_an_agent_that_starts_waits_for_one_that_makes_the_file(tmp_path):
    path = tmp_path / 'store.sqlite'
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute('BEGIN IMMEDIATE')
    ends = threading.Timer(0.3, lambda: other.execute('ROLLBACK'))
    ends.start()
    store = Store(f'sqlite:///{path}')
    store.migrate()
    ends.join()
    other.close()
    store.close()


def test_nobody_else_reads_the_file(tmp_path):
    store = Store(f'sqlite:///{tmp_path}/store.sqlite')
    store.migrate()
    store.add_container(container())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes['store.sqlite'] == 0o600
    assert set(modes.values()) == {0o600}
    store.close()


# Containers


def test_a_container_comes_out_as_it_went_in(store):
    started = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
    made = container(
        command=['sh', '-c', 'echo "ä"'],
        environment={'A': 'b'},
        nets=[{'network': 'n'}],
        cpu=0.5,
        restart_policy={'Name': 'always', 'MaximumRetryCount': 0},
        started_at=started,
    )
    store.add_container(made, action())
    found = store.container(made.uuid)
    assert found is not made
    assert found.command == ['sh', '-c', 'echo "ä"']
    assert found.environment == {'A': 'b'}
    assert found.nets == [{'network': 'n'}]
    assert (found.cpu, found.memory, found.started_at) == (0.5, None, started)
    assert found.restart_policy == {'Name': 'always', 'MaximumRetryCount': 0}
    assert found.entrypoint is None
    assert (found.status, found.generation, found.observed_generation) == ('Creating', 1, 0)
    assert [(a.action, a.generation) for a in store.actions(made.uuid)] == [('create', 1)]


def test_find_knows_uuid_and_name_of_one_project(store):
    mine, other = container(name='Web'), container(name='Web', project_id='p2')
    store.add_container(mine)
    store.add_container(other)
    store.add_container(container(name='web'))
    store.add_container(container(name=mine.uuid))
    assert [c.uuid for c in store.find('p1', 'Web')] == [mine.uuid]
    assert [c.uuid for c in store.find('p1', mine.uuid)] == [mine.uuid]
    assert [c.uuid for c in store.find(None, 'Web')] == [mine.uuid, other.uuid]
    assert store.find('p1', other.uuid) == []
    assert store.find('p1', 'WEB') == []


def test_concurrent_requests_each_get_a_generation(store):
    made = container()
    store.add_container(made)

    def ask(number):
        store.request(made.uuid, action=action('kill', f'req-{number}'), act={'op': 'kill'})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    assert store.container(made.uuid).generation == 41
    generations = [a.generation for a in store.actions(made.uuid)]
    assert sorted(generations) == list(range(2, 42))


def test_a_request_that_the_check_refuses_leaves_nothing(store):
    made = container(status=Status.RUNNING)
    store.add_container(made)

    def check(current):
        assert current.status == 'Running'
        raise errors.InvalidStateException('no')

    with pytest.raises(errors.InvalidStateException):
        store.request(made.uuid, action=action('start'), check=check, desired=Desired.RUNNING)
    found = store.container(made.uuid)
    assert (found.generation, found.desired) == (1, 'created')
    assert store.actions(made.uuid) == []


def test_a_request_for_what_is_gone_is_not_found(store):
    with pytest.raises(errors.ContainerNotFound):
        store.request(str(uuid.uuid4()), action=action())


def test_observe_writes_facts_and_ends_what_is_done(store):
    made = container(task_state='container_creating')
    store.add_container(made, action('create', 'req-1'))
    store.request(made.uuid, action=action('kill', 'req-2'), act={'op': 'kill'})
    seen = store.observe(made.uuid, done_generation=1, status=Status.RUNNING, docker_id='d' * 64)
    assert (seen.status, seen.observed_generation) == ('Running', 1)
    assert seen.task_state == 'container_creating'  # the later request is under way
    assert seen.acts == [{'op': 'kill', 'generation': 2}]
    ended = {a.request_id: a.finish_time is not None for a in store.actions(made.uuid)}
    assert ended == {'req-1': True, 'req-2': False}
    seen = store.observe(made.uuid, done_generation=2, message='Error')
    assert (seen.observed_generation, seen.task_state, seen.operation) == (2, None, None)
    messages = {a.request_id: a.message for a in store.actions(made.uuid)}
    assert messages == {'req-1': None, 'req-2': 'Error'}


def test_observe_of_a_known_container_is_as_of_one_that_is_read(store):
    known = store.add_container(container(task_state='container_creating'), action())
    seen = store.observe(
        known.uuid, known=known, done_generation=1, status=Status.RUNNING, addresses={'n': []}
    )
    stored = store.container(known.uuid)
    for found in (seen, stored):
        assert (found.status, found.addresses, found.task_state) == ('Running', {'n': []}, None)
        assert (found.id, found.generation, found.observed_generation) == (known.id, 1, 1)
    assert seen.updated_at == stored.updated_at is not None
    assert known.status == 'Creating'  # what the caller has stays what it was
    (ended,) = store.actions(known.uuid)
    assert ended.finish_time is not None


def test_observe_of_a_known_container_leaves_a_later_request_alone(store):
    known = store.add_container(container(), action())
    store.request(known.uuid, action=action('kill', 'req-2'), act={'op': 'kill'}, task_state='x')
    seen = store.observe(known.uuid, known=known, done_generation=1, status=Status.RUNNING)
    assert (seen.status, seen.generation, seen.observed_generation) == ('Running', 2, 1)
    assert (seen.task_state, seen.acts) == ('x', [{'op': 'kill', 'generation': 2}])
    ended = {a.request_id: a.finish_time is not None for a in store.actions(known.uuid)}
    assert ended == {'req-1': True, 'req-2': False}
    store.remove_container(known.uuid)
    assert store.observe(known.uuid, known=known, status=Status.STOPPED) is None


def test_observe_does_not_write_over_a_later_request(store):
    made = container()
    store.add_container(made)
    store.request(made.uuid, action=action('start'), desired=Desired.RUNNING)
    assert store.observe(made.uuid, expected_generation=1, status=Status.STOPPED) is None
    assert store.container(made.uuid).status == 'Creating'
    assert store.observe(made.uuid, expected_generation=2, status=Status.STOPPED) is not None
    assert store.observe(str(uuid.uuid4()), status=Status.STOPPED) is None


@pytest.mark.parametrize('field', ['desired', 'generation', 'operation', 'nonsense'])
def test_observe_takes_facts_only(store, field):
    made = container()
    store.add_container(made)
    with pytest.raises(ValueError, match=field):
        store.observe(made.uuid, **{field: 'x'})


def test_an_old_generation_done_again_undoes_nothing(store):
    made = container()
    store.add_container(made, action())
    store.request(made.uuid, action=action('start'), desired=Desired.RUNNING)
    store.observe(made.uuid, done_generation=2)
    assert store.observe(made.uuid, done_generation=1).observed_generation == 2


def test_the_record_ends_and_its_actions_stay(store):
    made = container()
    store.add_container(made, action())
    store.remove_container(made.uuid)
    store.remove_container(made.uuid)
    assert store.container(made.uuid) is None
    (kept,) = store.actions(made.uuid)
    assert kept.finish_time is not None
    assert store.action(made.uuid, 'req-1').id == kept.id
    assert store.action(made.uuid, 'req-2') is None


def test_actions_on_what_has_gone_are_forgotten_after_a_while(store, monkeypatch):
    monkeypatch.setattr('zun_agent.store._AT_ONCE', 2)
    gone, there = container(), container()
    for made in (gone, there):
        old = action()
        old.start_time = old.finish_time = models.now() - datetime.timedelta(days=60)
        store.add_container(made, old)
        for number in range(3):
            store.request(made.uuid, action=action('kill', f'req-{number}'), act={'op': 'kill'})
    store.remove_container(gone.uuid)
    store.forget_actions(models.now() - datetime.timedelta(days=30))
    assert len(store.actions(gone.uuid)) == len(store.actions(there.uuid)) == 4
    store.forget_actions(models.now() + datetime.timedelta(seconds=1))
    assert store.actions(gone.uuid) == []
    assert len(store.actions(there.uuid)) == 4


def test_what_a_host_has_and_has_to_do(store):
    done, waiting = container(host='h1'), container(host='h1')
    store.add_container(done)
    store.add_container(waiting)
    store.add_container(container(host='h2'))
    store.add_container(container(sandbox_id='s1'))
    store.observe(done.uuid, done_generation=1)
    assert [c.uuid for c in store.containers_on('h1')] == [done.uuid, waiting.uuid]
    assert [c.uuid for c in store.pending_on('h1')] == [waiting.uuid]
    assert [c.sandbox_id for c in store.containers_unclaimed()] == ['s1']


# Agents


def test_an_agent_reports_again_and_again(store):
    store.report('h1', 'http://h1:9517', {'cpus': 2}, 'nova')
    store.report('h2', 'http://h2:9517', {}, None)
    again = store.report('h1', 'http://h1:9518', {'cpus': 4}, 'west')
    assert again.report_count == 2
    assert [service.host for service in store.services()] == ['h1', 'h2']
    found = store.service('h1')
    assert (found.endpoint, found.facts, found.availability_zone) == (
        'http://h1:9518',
        {'cpus': 4},
        'west',
    )
    assert found.uuid == again.uuid
    assert store.service('h3') is None


# Trouble


class MySQLError(Exception):
    pass


def test_a_deadlock_is_tried_again(store):
    made = container()
    store.add_container(made)
    attempts = []

    def work(session):
        attempts.append(1)
        found = session.get(Container, made.id)
        found.restart_count += 1
        session.flush()
        if len(attempts) < 3:
            raise exc.OperationalError('UPDATE', {}, MySQLError(1213, 'Deadlock found'))

    store._database.write(work)
    assert len(attempts) == 3
    assert store.container(made.uuid).restart_count == 1


def test_attempts_are_bounded(store, monkeypatch):
    monkeypatch.setattr(database.time, 'sleep', lambda seconds: None)
    attempts = []

    def work(session):
        attempts.append(1)
        raise exc.OperationalError('UPDATE', {}, MySQLError(1213, 'Deadlock found'))

    with pytest.raises(errors.ServiceUnavailable):
        store._database.write(work)
    assert len(attempts) == database.ATTEMPTS


def test_a_store_that_is_not_there_is_unavailable(tmp_path):
    store = Store(f'sqlite:///{tmp_path}/store.sqlite')
    with pytest.raises(errors.ServiceUnavailable):
        store.page('p1')
    store.close()


def test_the_log_of_a_failure_holds_no_environment(tmp_path, caplog):
    store = Store(f'sqlite:///{tmp_path}/store.sqlite')
    with pytest.raises(errors.ServiceUnavailable):
        store.add_container(container(environment={'PASSWORD': 'swordfish'}))
    assert 'no such table' in caplog.text
    assert 'swordfish' not in caplog.text
    store.close()
