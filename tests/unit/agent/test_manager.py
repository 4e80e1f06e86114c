import concurrent.futures
import datetime
import shutil
import threading
import types
import uuid

import pytest

from tests.unit.agent import fake_cloud
from zun_agent import errors, intents, models, states
from zun_agent.manager import Manager
from zun_agent.models import Desired, Status
from zun_agent.openstack import Unanswered
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_virt import sandbox as contract


@pytest.fixture(scope='session')
def schema(tmp_path_factory):
    path = tmp_path_factory.mktemp('schema') / 'store.sqlite'
    store = Store(f'sqlite:///{path}')
    store.migrate()
    store.close()
    return path


@pytest.fixture
def cloud():
    made = fake_cloud.FakeCloud()
    yield made
    made.close()


@pytest.fixture
def store(schema, tmp_path):
    shutil.copy(schema, tmp_path / 'store.sqlite')
    made = Store(f'sqlite:///{tmp_path}/store.sqlite')
    yield made
    made.close()


class Images:
    """Image drivers that know what they are asked for."""

    def __init__(self):
        self.missing = set()

    def resolve(self, context, driver, name):
        if name in self.missing:
            raise errors.ImageNotFound(f'Image {name} could not be found.')
        return f'id-of-{name}' if driver == 'glance' else None


class Runtime:
    """Docker, as far as the API reads it."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.asked.append((name, args, kwargs))
            return {'logs': 'text', 'execute': ('out', 3)}.get(name, {'name': name})

        return call


@pytest.fixture
def agent(cloud, store, tmp_path):
    conf = cloud.conf(sandbox__nova_cache_seconds=0, sandbox__server_cache_seconds=0)
    local = contract.SandboxStore(tmp_path)
    local.prepare()
    made = types.SimpleNamespace(
        conf=conf,
        cloud=cloud,
        store=store,
        local=local,
        images=Images(),
        runtime=Runtime(),
        woken=[],
        context=cloud.context(),
    )
    made.sandboxes = Sandboxes(conf, local)
    made.manager = Manager(
        conf,
        store,
        made.runtime,
        made.sandboxes,
        made.images,
        lambda container, since: made.woken.append(container.uuid),
        host='one',
    )
    return made


def spec(**values):
    """Return a request as the API hands it on."""
    given = dict.fromkeys(
        ('command', 'entrypoint', 'cpu', 'memory', 'disk', 'workdir', 'hostname', 'restart_policy',
         'image_driver', 'image_pull_policy', 'availability_zone', 'host')
    )  # fmt: skip
    given |= dict.fromkeys(('interactive', 'tty', 'auto_remove', 'auto_heal'), False)
    given |= {'environment': {}, 'labels': {}, 'hints': {}, 'security_groups': [], 'nets': []}
    return {**given, 'image': 'nginx', 'name': 'web', 'cpu_policy': 'shared', **values}


def create(agent, context=None, *, run=True, **values):
    return agent.manager.create(context or agent.context, spec(**values), run=run)


def running(agent, **values):
    """Create a container, and let the reconciler have started it."""
    made = create(agent, **values)
    return agent.store.observe(
        made.uuid, status=Status.RUNNING, docker_id='d' * 64, done_generation=1
    )


# Creating


def test_a_container_gets_a_sandbox_of_its_own(agent):
    made = create(agent, command=['sleep', '1'], environment={'A': 'b'}, cpu=0.5, memory=64)
    assert list(agent.cloud.servers) == [made.uuid]
    assert (made.sandbox_id, made.owns_sandbox) == (made.uuid, True)
    assert agent.woken == [made.uuid]
    found = agent.store.container(made.uuid)
    assert found.command == ['sleep', '1']
    assert (found.status, found.task_state) == ('Creating', 'container_creating')
    assert (found.desired, found.generation) == ('running', 1)
    assert (found.project_id, found.user_id) == ('p1', 'u1')
    assert (found.image_driver, found.image_pull_policy) == ('docker', 'ifnotpresent')
    assert (found.cpu, found.memory) == (0.5, 64)
    (action,) = agent.manager.actions(agent.context, made)
    assert (action.action, action.request_id, action.generation) == ('run', 'req-1', 1)
    assert agent.cloud.servers[made.uuid]['metadata'] == {'zun_intent': found.intent_id}


def test_a_container_that_is_only_created(agent):
    made = create(agent, run=False)
    assert made.desired == 'created'
    assert agent.manager.actions(agent.context, made)[0].action == 'create'


def test_who_asks_for_no_limit_has_none(agent):
    made = create(agent)
    assert (made.cpu, made.memory) == (None, None)


def test_the_host_that_is_asked_for_is_not_yet_the_containers(agent):
    made = create(agent, host='h7')
    assert agent.cloud.asked('POST', '.*/servers')[0].body['server']['host'] == 'h7'
    assert agent.store.container(made.uuid).host is None


def test_the_image_is_checked_and_pinned(agent):
    made = create(agent, image='mine', image_driver='glance')
    assert made.image_ref == 'id-of-mine'
    agent.images.missing.add('none')
    with pytest.raises(errors.ImageNotFound):
        create(agent, image='none')
    assert len(agent.cloud.servers) == len(agent.store.page(None)) == 1


@pytest.mark.parametrize(
    ('status', 'message', 'error'),
    [
        (403, 'Quota exceeded for instances', errors.OverQuota),
        (400, 'no', errors.Invalid),
        (409, 'no', errors.NetworkConflict),
    ],
)
def test_novas_no_leaves_nothing(agent, status, message, error):
    agent.cloud.fail('POST', '/v2.1/servers', status, {'x': {'message': message}})
    with pytest.raises(error, match=message):
        create(agent)
    assert agent.store.page(None) == []
    assert agent.woken == []


def test_the_intent_is_there_before_nova_is_asked(agent, monkeypatch):
    seen = []
    ask = agent.sandboxes.create

    def create_server(context, plan):
        seen.extend(agent.store.intents(0))
        return ask(context, plan)

    monkeypatch.setattr(agent.sandboxes, 'create', create_server)
    made = create(agent)
    assert [intent.intent_id for intent in seen] == [made.intent_id]
    assert seen[0].desired == 'running'


def test_no_answer_of_novas_leaves_an_intent_to_be_swept(agent):
    agent.cloud.fail('POST', '/v2.1/servers', 'done')
    with pytest.raises(Unanswered):
        create(agent)
    (intent,) = agent.manager.list(agent.context)
    assert (intent.status, intent.sandbox_id) == ('Error', None)
    assert 'Nova did not answer' in intent.status_reason
    agent.manager.delete(agent.context, intent)
    assert len(agent.cloud.servers) == 1
    intents.sweep(agent.store, agent.sandboxes, 60)
    assert len(agent.cloud.servers) == 1  # it may still be on its way
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert agent.cloud.servers == {}
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert agent.store.page(None) == []


def test_the_sweep_waits_for_nova(agent):
    agent.cloud.fail('POST', '/v2.1/servers', 'done')
    with pytest.raises(Unanswered):
        create(agent)
    agent.cloud.fail('GET', '/v2.1/servers/detail', 503)
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert len(agent.store.page(None)) == 1
    agent.cloud.failures.clear()
    for _ in range(2):
        intents.sweep(agent.store, agent.sandboxes, 0)
    assert agent.store.page(None) == []
    assert agent.cloud.servers == {}


def test_the_sweep_leaves_what_has_its_answer(agent):
    made = create(agent)
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert made.uuid in agent.cloud.servers
    assert agent.store.container(made.uuid).desired == 'running'


def test_an_answer_that_comes_during_the_sweep(agent, monkeypatch):
    agent.cloud.fail('POST', '/v2.1/servers', 'done')
    with pytest.raises(Unanswered):
        create(agent)
    old = agent.store.intents(0)
    (server_id,) = agent.cloud.servers
    agent.store.bind_intent(old[0].intent_id, server_id)
    monkeypatch.setattr(agent.store, 'intents', lambda older_than: old)
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert list(agent.cloud.servers) == [server_id]
    assert agent.store.container(server_id).desired == 'running'


def test_an_answer_that_comes_after_the_sweep(agent, monkeypatch):
    ask = agent.sandboxes.create

    def create_server(context, plan):
        intents.sweep(agent.store, agent.sandboxes, 0)
        return ask(context, plan)

    monkeypatch.setattr(agent.sandboxes, 'create', create_server)
    with pytest.raises(errors.ServiceUnavailable):
        create(agent)
    assert agent.cloud.servers == {}
    assert agent.store.page(None) == []


def died_in(agent, monkeypatch, reached):
    """Have the agent's process end in the middle of a request for a sandbox.

    :param reached: whether Nova got the request
    """

    class Killed(BaseException):
        pass

    ask = agent.sandboxes.create

    def create_server(context, plan):
        if reached:
            ask(context, plan)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(agent.sandboxes, 'create', create_server)
        with pytest.raises(Killed):
            create(agent)


def earlier(agent, host='one', longest=60.0):
    return intents.Earlier(host, agent.store, agent.sandboxes, longest)


def test_a_request_that_died_with_the_agent_is_settled_by_the_next(agent, monkeypatch):
    died_in(agent, monkeypatch, reached=True)
    next_one = earlier(agent)
    agent.cloud.fail('GET', '/v2.1/servers/detail', 503)
    next_one.settle()
    agent.cloud.failures.clear()
    next_one.settle()
    assert agent.cloud.servers == {}
    next_one.settle()
    assert agent.store.page(None) == []


def test_what_nova_may_still_be_at_is_waited_for(agent, monkeypatch):
    died_in(agent, monkeypatch, reached=False)
    patient = earlier(agent)
    for _ in range(3):
        patient.settle()
    (intent,) = agent.store.page(None)
    assert intent.status == 'Deleting'
    server = agent.cloud.server(
        name=intent.name, tenant_id=intent.project_id, metadata={'zun_intent': intent.intent_id}
    )
    patient.settle()
    assert server['id'] not in agent.cloud.servers
    patient.settle()
    assert agent.store.page(None) == []

    died_in(agent, monkeypatch, reached=False)
    earlier(agent, longest=0).settle()
    assert agent.store.page(None) == []


def test_others_requests_are_left_to_them(agent, monkeypatch):
    """Those of the agent itself, of other hosts' agents, and of front ends."""
    next_one = earlier(agent, longest=0)
    died_in(agent, monkeypatch, reached=False)
    next_one.settle()
    earlier(agent, host='two', longest=0).settle()
    agent.manager = Manager(agent.conf, agent.store, agent.runtime, agent.sandboxes, agent.images)
    died_in(agent, monkeypatch, reached=False)
    assert [intent.status for intent in agent.store.page(None)] == ['Creating'] * 2
    earlier(agent, longest=0).settle()
    assert [intent.taken_by for intent in agent.store.page(None)] == [None]


def test_a_container_that_is_deleted_before_nova_answers(agent, monkeypatch):
    ask = agent.sandboxes.create

    def create_server(context, plan):
        (intent,) = agent.store.page(None)
        agent.manager.delete(agent.context, intent, force=True)
        return ask(context, plan)

    monkeypatch.setattr(agent.sandboxes, 'create', create_server)
    made = create(agent)
    assert (made.desired, made.status) == ('deleted', 'Deleting')


# Joining


@pytest.mark.parametrize('by', ['id', 'name'])
def test_a_container_joins_a_sandbox(agent, by):
    server = agent.cloud.server()
    made = create(agent, hints={'sandbox': server[by]}, cpu=1, memory=512)
    assert made.uuid != server['id']
    assert (made.sandbox_id, made.owns_sandbox) == (server['id'], False)
    assert agent.woken == [made.uuid]
    assert agent.cloud.asked('POST', '.*') == []
    assert [a.action for a in agent.manager.actions(agent.context, made)] == ['run']


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'cpu': 1.5}, 'cpu 1.5, .* has 1'),
        ({'memory': 513}, 'memory 513 MiB, .* has 512 MiB'),
        ({'disk': 2}, 'disk 2 GiB, .* has 1 GiB'),
    ],
)
def test_a_container_has_no_more_than_its_sandbox(agent, values, words):
    agent.cloud.server()
    with pytest.raises(errors.LimitExceedsSandbox, match=words):
        create(agent, hints={'sandbox': 'mybox'}, **values)
    assert agent.store.page(None) == []


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'nets': [{'network': 'private'}]}, 'nets'),
        ({'security_groups': ['default']}, 'security_groups'),
        ({'availability_zone': 'nova'}, 'availability_zone'),
        ({'host': 'h1'}, 'host'),
        ({'hostname': 'x'}, 'hostname'),
        ({'hints': {'sandbox': 'mybox', 'flavor': 'small'}}, 'hint flavor'),
        ({'hints': {'sandbox': ['mybox']}}, 'one id or name'),
    ],
)
def test_a_sandbox_that_is_there_is_not_described(agent, values, words):
    agent.cloud.server()
    with pytest.raises(errors.Invalid, match=words):
        create(agent, **{'hints': {'sandbox': 'mybox'}, **values})
    assert agent.cloud.requests == []


def test_a_sandbox_that_goes_with_its_container_takes_no_other(agent):
    made = running(agent, name='first')
    agent.manager.delete(agent.context, made, stop=True)
    with pytest.raises(errors.SandboxConflict, match='first'):
        create(agent, hints={'sandbox': made.sandbox_id})


# Finding


def test_a_project_sees_its_own(agent):
    made = create(agent)
    other = create(agent, agent.cloud.context('p2'), nets=[{'network': 'private'}])
    assert agent.manager.get(agent.context, 'web').uuid == made.uuid
    assert agent.manager.get(agent.context, made.uuid).uuid == made.uuid
    with pytest.raises(errors.ContainerNotFound):
        agent.manager.get(agent.context, other.uuid)
    with pytest.raises(errors.ContainerNameNotUnique):
        agent.manager.get(agent.context, 'web', all_projects=True)
    assert agent.manager.get(agent.context, other.uuid, all_projects=True).uuid == other.uuid
    assert [c.uuid for c in agent.manager.list(agent.context)] == [made.uuid]
    assert len(agent.manager.list(agent.context, all_projects=True)) == 2


@pytest.mark.parametrize('project', [None, ''])
def test_a_token_of_no_project_is_not_of_all(agent, project):
    create(agent)
    context = fake_cloud.Context(project_id=project)
    with pytest.raises(errors.Forbidden):
        agent.manager.get(context, 'web')
    with pytest.raises(errors.Forbidden):
        agent.manager.list(context)


def test_actions_are_found_by_request(agent):
    made = create(agent)
    assert agent.manager.action(agent.context, made, 'req-1').action == 'run'
    with pytest.raises(errors.ActionNotFound):
        agent.manager.action(agent.context, made, 'req-2')


# Changing

ACTS = {
    'start': lambda manager, *args: manager.start(*args),
    'stop': lambda manager, *args: manager.stop(*args),
    'reboot': lambda manager, *args: manager.restart(*args),
    'kill': lambda manager, *args: manager.kill(*args),
    'pause': lambda manager, *args: manager.pause(*args),
    'unpause': lambda manager, *args: manager.unpause(*args),
    'update': lambda manager, *args: manager.update(*args, {'name': 'x'}),
    'delete': lambda manager, *args: manager.delete(*args),
    'delete_stop': lambda manager, *args: manager.delete(*args, stop=True),
    'delete_force': lambda manager, *args: manager.delete(*args, force=True),
    'logs': lambda manager, *args: manager.logs(*args),
    'execute': lambda manager, *args: manager.execute(*args, ['true']),
    'top': lambda manager, *args: manager.top(*args),
    'stats': lambda manager, *args: manager.stats(*args),
}

# The table of the Zun API's documentation; what restarts for ever can be stopped, too.
ALLOWED = {
    'delete': 'Created Error Stopped Deleted Dead',
    'delete_force': 'Created Creating Error Running Stopped Unknown Deleted Dead Restarting '
    'Rebuilding Deleting',
    'delete_stop': 'Running Restarting Created Error Stopped Deleted Dead',
    'start': 'Created Stopped Error',
    'stop': 'Running Restarting',
    'pause': 'Running',
    'kill': 'Running Restarting',
    'execute': 'Running',
    'top': 'Running',
    'stats': 'Running',
    'unpause': 'Paused',
    'reboot': 'Created Running Stopped Error',
    'update': 'Created Running Stopped Paused',
    'logs': 'Created Error Paused Running Stopped Unknown',
}


@pytest.mark.parametrize('action', ACTS)
def test_statuses_in_which_an_action_is_allowed(agent, action):
    made = running(agent)
    assert set(ACTS) == set(ALLOWED) == set(states.ALLOWED)
    for status in Status:
        current = agent.store.observe(made.uuid, status=status)
        before = current.generation
        if status in ALLOWED[action].split():
            ACTS[action](agent.manager, agent.context, current)
            agent.store.request(  # for the deletions, which stay wanted
                made.uuid, action=models.Action(**ANYBODY), desired=Desired.RUNNING
            )
            continue
        with pytest.raises(errors.InvalidStateException) as caught:
            ACTS[action](agent.manager, agent.context, current)
        assert str(caught.value) == f'Cannot {action} container {made.uuid} in {status} state'
        assert agent.store.container(made.uuid).generation == before


ANYBODY = {'action': 'test', 'request_id': 'r', 'user_id': 'u', 'project_id': 'p'}


@pytest.mark.parametrize(
    ('action', 'status', 'expected'),
    [
        ('start', 'Stopped', {'desired': 'running', 'task_state': 'container_starting'}),
        ('stop', 'Running',
         {'desired': 'stopped', 'task_state': 'container_stopping', 'stop_timeout': 10}),
        ('reboot', 'Running', {'desired': 'running', 'task_state': 'container_rebooting',
                               'operation': {'op': 'restart', 'timeout': 10}}),
        ('kill', 'Running', {'desired': 'stopped', 'task_state': 'container_killing',
                             'operation': {'op': 'kill', 'signal': 'KILL'}}),
        ('pause', 'Running', {'desired': 'paused', 'task_state': 'container_pausing'}),
        ('unpause', 'Paused', {'desired': 'running', 'task_state': 'container_unpausing'}),
        ('delete', 'Stopped', {'desired': 'deleted', 'status': 'Deleting', 'stop_timeout': 0}),
        ('delete_force', 'Running',
         {'desired': 'deleted', 'status': 'Deleting', 'stop_timeout': 0,
          'task_state': 'container_deleting'}),
        ('delete_stop', 'Running', {'desired': 'deleted', 'stop_timeout': 10}),
    ],
)  # fmt: skip
def test_what_a_request_stores(agent, action, status, expected):
    made = running(agent)
    agent.woken.clear()
    current = agent.store.observe(made.uuid, status=Status(status))
    ACTS[action](agent.manager, agent.context, current)
    found = agent.store.container(made.uuid)
    assert {key: getattr(found, key) for key in expected} == expected
    assert (found.generation, found.observed_generation) == (2, 1)
    assert agent.woken == [made.uuid]
    newest = agent.manager.actions(agent.context, made)[0]
    assert (newest.action, newest.generation) == (action.partition('_')[0], 2)
    assert newest.finish_time is None


def test_times_and_signals_that_are_given(agent):
    made = running(agent)
    agent.manager.stop(agent.context, made, 3)
    assert agent.store.container(made.uuid).stop_timeout == 3
    agent.manager.restart(agent.context, made, timeout=0)
    assert agent.store.container(made.uuid).operation == {'op': 'restart', 'timeout': 0}
    agent.manager.kill(agent.context, made, 'HUP')
    assert agent.store.container(made.uuid).operation == {'op': 'kill', 'signal': 'HUP'}
    assert agent.store.container(made.uuid).desired == Desired.RUNNING


def test_a_container_that_is_to_go_takes_no_other_request(agent):
    made = running(agent)
    agent.manager.delete(agent.context, made, stop=True)
    # What the reconciler sees on the way is not what counts.
    agent.store.observe(made.uuid, status=Status.STOPPED)
    for name in ('start', 'delete', 'update'):
        with pytest.raises(errors.InvalidStateException, match='in Deleting state'):
            ACTS[name](agent.manager, agent.context, made)
    agent.manager.delete(agent.context, made, force=True)


def test_an_update_stays_within_the_sandbox(agent):
    made = running(agent)
    changed = agent.manager.update(
        agent.context, made, {'name': 'x', 'cpu': 0.5, 'memory': 100, 'auto_heal': True}
    )
    assert (changed.name, changed.cpu, changed.memory, changed.auto_heal) == ('x', 0.5, 100, True)
    with pytest.raises(errors.LimitExceedsSandbox):
        agent.manager.update(agent.context, made, {'memory': 513})
    assert agent.store.container(made.uuid).memory == 100


def test_a_sandbox_does_not_go_under_others(agent):
    made = running(agent)
    joined = create(agent, name='second', hints={'sandbox': made.sandbox_id})
    with pytest.raises(errors.SandboxConflict, match=f'second .{joined.uuid}'):
        agent.manager.delete(agent.context, made, stop=True)
    assert agent.store.container(made.uuid).desired == 'running'


def test_one_of_two_stops_at_once_is_too_late(agent):
    made = running(agent)
    barrier = threading.Barrier(2)

    def delete():
        barrier.wait(10)
        agent.manager.delete(agent.context, made, stop=True)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(delete) for _ in range(2)]
        outcomes = [type(future.exception(20)) for future in futures]
    assert set(outcomes) == {type(None), errors.InvalidStateException}


# Reading from Docker


def test_what_docker_is_asked(agent):
    made = running(agent)
    manager, id_ = agent.manager, 'd' * 64
    assert manager.logs(agent.context, made, tail=3, stderr=False) == 'text'
    assert manager.execute(agent.context, made, ['ls', '-l']) == ('out', 3)
    assert manager.top(agent.context, made, '-ef') == {'name': 'top'}
    assert manager.stats(agent.context, made) == {'name': 'stats'}
    assert agent.runtime.asked == [
        ('logs', (id_,),
         {'stdout': True, 'stderr': False, 'timestamps': False, 'tail': 3, 'since': None}),
        ('execute', (id_, ['ls', '-l']), {}),
        ('top', (id_, '-ef'), {}),
        ('stats', (id_,), {}),
    ]  # fmt: skip


def test_the_log_of_what_never_was(agent):
    made = create(agent)
    failed = agent.store.observe(made.uuid, status=Status.ERROR)
    assert agent.manager.logs(agent.context, failed) == ''
    assert agent.runtime.asked == []


# Agents


def test_which_agents_are_up(agent):
    report = agent.store.report
    for host, zone in (('h1', 'east'), ('h2', 'west'), ('h3', 'south'), ('h4', None)):
        report(host, f'http://{host}:9517', {}, zone)
    h1, h2, h3, h4 = agent.manager.services()
    assert agent.manager.service_is_up(h1)
    h2.last_seen_up = models.now() - datetime.timedelta(seconds=61)
    assert not agent.manager.service_is_up(h2)
    h3.forced_down = True
    assert not agent.manager.service_is_up(h3)
    h4.last_seen_up = None
    assert not agent.manager.service_is_up(h4)
    assert agent.manager.availability_zones() == ['east', 'nova', 'south', 'west']


def test_a_request_for_what_is_gone_meanwhile(agent):
    made = running(agent)
    agent.store.remove_container(made.uuid)
    with pytest.raises(errors.ContainerNotFound, match=str(uuid.UUID(made.uuid))):
        agent.manager.stop(agent.context, made)
