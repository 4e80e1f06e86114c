import concurrent.futures
import datetime
import os
import shutil
import stat
import threading
import uuid

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import exc

from zun_agent import database, errors, models, records
from zun_agent.models import Action, Container, Desired, Status
from zun_agent.store import Store

MYSQL_URL = os.environ.get('ZUN_TEST_MYSQL_URL')
"""Of a database of its own, which the tests empty."""


@pytest.fixture(
    params=[
        'sqlite',
        pytest.param(
            'mysql', marks=pytest.mark.skipif(not MYSQL_URL, reason='ZUN_TEST_MYSQL_URL is not set')
        ),
    ]
)
def url(request, tmp_path):
    if request.param == 'sqlite':
        yield f'sqlite:///{tmp_path}/store.sqlite'
        return
    yield MYSQL_URL
    engine = sa.create_engine(MYSQL_URL)
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


def container(**values):
    given = {'uuid': str(uuid.uuid4()), 'project_id': 'p1', 'user_id': 'u1', 'name': 'web'}
    return Container(**{**given, 'image': 'nginx', **values})


def action(name='create', request_id='req-1'):
    return Action(action=name, request_id=request_id, user_id='u1', project_id='p1')


def owner(store, **values):
    """Store a container in a sandbox that was made for it."""
    intent = container(**values)
    intent.intent_id = intent.uuid
    store.add_container(intent)
    return store.bind_intent(intent.intent_id, str(uuid.uuid4()), action())


# The schema


def test_the_migrations_make_what_the_models_say(store, url):
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={'compare_type': False})
        differences = compare_metadata(context, models.Base.metadata)
    engine.dispose()
    assert differences == []


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
        store.request(made.uuid, action=action('kill', f'req-{number}'), operation={'op': 'kill'})

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
    store.request(made.uuid, action=action('kill', 'req-2'), operation={'op': 'kill'})
    seen = store.observe(made.uuid, done_generation=1, status=Status.RUNNING, docker_id='d' * 64)
    assert (seen.status, seen.observed_generation) == ('Running', 1)
    assert seen.task_state == 'container_creating'  # the later request is under way
    assert seen.operation == {'op': 'kill'}
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
    store.request(
        known.uuid, action=action('kill', 'req-2'), operation={'op': 'kill'}, task_state='x'
    )
    seen = store.observe(known.uuid, known=known, done_generation=1, status=Status.RUNNING)
    assert (seen.status, seen.generation, seen.observed_generation) == ('Running', 2, 1)
    assert (seen.task_state, seen.operation) == ('x', {'op': 'kill'})
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


# Intents


def test_an_intent_becomes_the_container_of_its_server(store):
    intent = container()
    intent.intent_id = intent.uuid
    store.add_container(intent)
    server_id = str(uuid.uuid4())
    bound = store.bind_intent(intent.intent_id, server_id, action())
    assert (bound.uuid, bound.sandbox_id, bound.owns_sandbox) == (server_id, server_id, True)
    assert store.container(intent.intent_id) is None
    assert [a.action for a in store.actions(server_id)] == ['create']
    assert store.intents(0) == []


def test_an_intent_keeps_what_was_asked_of_it_meanwhile(store):
    intent = container()
    intent.intent_id = intent.uuid
    store.add_container(intent)
    store.request(intent.uuid, action=action('delete'), desired=Desired.DELETED)
    bound = store.bind_intent(intent.intent_id, str(uuid.uuid4()), action())
    assert (bound.desired, bound.generation) == ('deleted', 2)
    assert {a.action for a in store.actions(bound.uuid)} == {'delete', 'create'}


def test_only_intents_without_an_answer_are_swept(store):
    waiting, bound = container(), owner(store)
    waiting.intent_id = waiting.uuid
    store.add_container(waiting)
    store.add_container(container(sandbox_id=bound.sandbox_id))
    assert [c.uuid for c in store.intents(0)] == [waiting.uuid]
    assert store.intents(60) == []
    assert store.give_up_intent(waiting.intent_id)
    assert store.container(waiting.uuid).desired == 'deleted'
    assert not store.give_up_intent(bound.intent_id)
    assert not store.remove_intent(bound.intent_id)
    assert store.remove_intent(waiting.intent_id)
    assert store.container(bound.uuid).desired == 'created'
    with pytest.raises(errors.ContainerNotFound):
        store.bind_intent(waiting.intent_id, str(uuid.uuid4()))


# Sandboxes


def test_one_of_many_agents_claims_a_sandbox(store):
    made = owner(store)
    barrier = threading.Barrier(6)

    def claim(host):
        barrier.wait(10)
        return store.claim_sandbox(made.sandbox_id, 'p1', host, f'inc-{host}', None)

    hosts = [f'h{number}' for number in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        won = [host for host, mine in zip(hosts, pool.map(claim, hosts), strict=True) if mine]
    assert len(won) == 1
    assert store.container(made.uuid).host == won[0]
    assert store.claim(made.sandbox_id).host == won[0]
    assert [claim.sandbox_id for claim in store.claims_of(won[0])] == [made.sandbox_id]


def test_a_claim_changes_hands_by_compare_and_swap(store):
    made = owner(store)
    claim = store.claim_sandbox
    assert claim(made.sandbox_id, 'p1', 'h1', 'inc-1', None)
    assert claim(made.sandbox_id, 'p1', 'h1', 'inc-1', None)  # a repetition
    assert not claim(made.sandbox_id, 'p1', 'h2', 'inc-2', None)
    assert not claim(made.sandbox_id, 'p1', 'h2', 'inc-2', 'inc-0')
    assert store.container(made.uuid).host == 'h1'
    assert claim(made.sandbox_id, 'p1', 'h2', 'inc-2', 'inc-1')
    assert not claim(made.sandbox_id, 'p1', 'h1', 'inc-1', 'inc-1')
    assert store.container(made.uuid).host == 'h2'
    store.release_sandbox(made.sandbox_id)
    store.release_sandbox(made.sandbox_id)
    assert store.claim(made.sandbox_id) is None


def test_a_claim_is_of_containers_of_the_sandboxs_project_only(store):
    made = owner(store)
    stranger = container(project_id='p2', sandbox_id=made.sandbox_id)
    store.add_container(stranger)
    store.claim_sandbox(made.sandbox_id, 'p1', 'h1', 'inc-1', None)
    assert store.container(stranger.uuid).host is None


def test_who_joins_a_claimed_sandbox_is_on_its_host(store):
    made = owner(store)
    store.claim_sandbox(made.sandbox_id, 'p1', 'h1', 'inc-1', None)
    joined = store.add_container(container(sandbox_id=made.sandbox_id), action())
    assert joined.host == 'h1'


def test_a_sandbox_does_not_go_under_those_who_live_there(store):
    made = owner(store, name='first')
    joined = container(name='second', sandbox_id=made.sandbox_id)
    store.add_container(joined)
    with pytest.raises(errors.SandboxConflict, match='second'):
        store.request(made.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    store.request(joined.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    store.request(made.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    with pytest.raises(errors.SandboxConflict, match='first'):
        store.add_container(container(sandbox_id=made.sandbox_id))


def test_who_joins_while_the_sandbox_is_given_up_is_refused(store, monkeypatch):
    made = owner(store)
    check = records.check_alone
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        joining = []

        def check_and_wait(session, current):
            check(session, current)
            join = pool.submit(store.add_container, container(sandbox_id=made.sandbox_id))
            joining.append(join)
            concurrent.futures.wait([join], timeout=0.3)  # it has to wait for us instead

        monkeypatch.setattr(records, 'check_alone', check_and_wait)
        store.request(made.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
        assert type(joining[0].exception(20)) is errors.SandboxConflict
    assert len(store.containers_in(made.sandbox_id)) == 1


def test_the_last_one_out_takes_the_sandbox(store):
    made = owner(store)
    joined = [container(sandbox_id=made.sandbox_id) for _ in range(2)]
    for each in joined:
        store.add_container(each)
    assert store.pass_on_sandbox(made.uuid)
    assert [c.owns_sandbox for c in store.containers_in(made.sandbox_id)] == [False, True, False]
    store.remove_container(made.uuid)
    # It was not made for this one, which may go while the other stays.
    store.request(joined[0].uuid, action=action(), alone=True, desired=Desired.DELETED)
    assert store.pass_on_sandbox(joined[0].uuid)
    store.remove_container(joined[0].uuid)
    assert not store.pass_on_sandbox(joined[1].uuid)


# Listing


@pytest.fixture
def many(store):
    for number in range(7):
        store.add_container(
            container(
                name=f'c{number % 3}',
                memory=[None, 64, 128][number % 3],
                status=Status.RUNNING if number % 2 else Status.STOPPED,
                auto_remove=number == 4,
            )
        )
    store.add_container(container(project_id='p2', name='c9'))
    return store


@pytest.mark.parametrize('sort_dir', ['asc', 'desc'])
@pytest.mark.parametrize('sort_key', ['id', 'name', 'memory', 'created_at', 'host', 'status'])
def test_pages_hold_each_container_once(many, sort_key, sort_dir):
    found, marker = [], None
    while page := many.page('p1', limit=2, marker=marker, sort_key=sort_key, sort_dir=sort_dir):
        assert len(page) <= 2
        found += page
        marker = page[-1].uuid
    assert [c.uuid for c in found] == [
        c.uuid for c in many.page('p1', sort_key=sort_key, sort_dir=sort_dir)
    ]
    assert len({c.uuid for c in found}) == 7
    values = [v for v in (getattr(c, sort_key) for c in found) if v is not None]
    assert values == sorted(values, reverse=sort_dir == 'desc')


@pytest.mark.parametrize(
    ('filters', 'expected'),
    [
        ({}, 7),
        ({'name': 'c0'}, 3),
        ({'name': 'C0'}, 0),
        ({'name': 'c'}, 0),
        ({'status': 'Running'}, 3),
        ({'memory': '64'}, 2),
        ({'memory': '64M', 'status': 'Running'}, 1),
        ({'auto_remove': 'True'}, 1),
        ({'auto_remove': False}, 6),
        ({'project_id': 'p2'}, 0),
        ({'host': None}, 7),
    ],
)
def test_filters(many, filters, expected):
    assert len(many.page('p1', filters=filters)) == expected


def test_every_project_is_listed_when_asked(many):
    assert len(many.page(None)) == 8
    assert len(many.page(None, filters={'project_id': 'p2'})) == 1


@pytest.mark.parametrize(
    'query',
    [
        {'marker': 'unknown'},
        {'sort_key': 'environment'},
        {'sort_dir': 'up'},
        {'filters': {'environment': 'x'}},
        {'filters': {'memory': 'much'}},
        {'filters': {'auto_remove': 'perhaps'}},
    ],
)
def test_what_cannot_be_listed_is_refused(many, query):
    with pytest.raises(errors.Invalid):
        many.page('p1', **query)


def test_anothers_container_is_no_marker(many):
    (other,) = many.page('p2')
    with pytest.raises(errors.Invalid):
        many.page('p1', marker=other.uuid)


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
