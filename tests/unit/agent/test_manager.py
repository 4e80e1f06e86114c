"""What the manager makes of requests for containers, what it finds, and what it reads of Docker."""

import datetime

import pytest

from tests.unit.agent import fake_cloud
from tests.unit.agent.managing import create, running
from zun_agent import decision, errors, models
from zun_agent.models import Status

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


@pytest.mark.parametrize(
    ('reason', 'told'), [(decision.SHELVED, 'shelved'), (None, 'is made anew when')]
)
def test_what_docker_has_not_got_is_not_deleted(agent, reason, told):
    made = running(agent)

    def gone(*args, **kwargs):
        raise errors.ContainerNotFound(f'No such container: {made.docker_id}')

    for name in ('logs', 'execute', 'top', 'stats'):
        setattr(agent.runtime, name, gone)
    found = agent.store.observe(made.uuid, status_reason=reason)
    manager = agent.manager
    for ask in (manager.logs, manager.top, manager.stats):
        with pytest.raises(errors.Conflict, match=told) as caught:
            ask(agent.context, found)
        assert made.uuid in str(caught.value)
        assert made.docker_id not in str(caught.value)
    with pytest.raises(errors.Conflict, match=told):
        manager.execute(agent.context, found, ['true'])


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
