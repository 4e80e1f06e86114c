"""Sandboxes that are there: which of them users find, and what the agent asks of them itself."""

import dataclasses
import uuid

import pytest

from tests.unit.agent import fake_cloud
from tests.unit.agent.stored import intent
from zun_agent import errors, networks
from zun_agent.sandboxes import Sandboxes
from zun_virt import sandbox as contract


def record(server, **values):
    given = {
        'instance_id': server['id'],
        'project_id': server['tenant_id'],
        'user_id': 'u1',
        'name': server['name'],
        'hostname': 'h',
        'host': 'h1',
        'state': contract.State.READY,
        'incarnation': 'inc',
        'cgroup_parent': '/zun/x',
        'limits': contract.Limits(cpus=1.0, memory_mb=256, pids=10, disk_gb=1),
    }
    return contract.Sandbox(**{**given, **values})


def write(local, sandbox):
    local.create(sandbox.instance_id)
    local.write(sandbox)


# What users find


@pytest.mark.parametrize('by', ['id', 'name'])
def test_a_sandbox_is_found_by_id_and_name(uncached, cloud, by):
    server = cloud.server(name='my.box+1')
    cloud.server(name='my-box+1')
    found = uncached.resolve(cloud.context(), server[by])
    assert (found.id, found.flavor.memory) == (server['id'], 512)
    assert uncached.limits(found) == contract.Limits(cpus=1, memory_mb=512, pids=None, disk_gb=1)
    assert {request.token for request in cloud.requests} == {'token-of-p1'}


def test_a_server_whose_name_is_anothers_id(uncached, cloud):
    other = cloud.server(tenant_id='p2')
    mine = cloud.server(name=other['id'])
    assert uncached.resolve(cloud.context(), other['id']).id == mine['id']


@pytest.mark.parametrize('by', ['id', 'name'])
def test_another_projects_sandbox_is_not_there(uncached, cloud, by):
    server = cloud.server(tenant_id='p2')
    with pytest.raises(errors.SandboxNotFound):
        uncached.resolve(cloud.context(), server[by])


def test_an_administrator_joins_his_own_projects_only(uncached, cloud):
    server = cloud.server(tenant_id='p2')
    context = dataclasses.replace(cloud.context(), auth_token=fake_cloud.SERVICE_TOKEN)
    with pytest.raises(errors.SandboxNotFound):
        uncached.resolve(context, server['id'])


def test_an_ambiguous_name(uncached, cloud):
    cloud.server()
    cloud.server()
    with pytest.raises(errors.SandboxConflict, match='2 servers'):
        uncached.resolve(cloud.context(), 'mybox')


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'status': 'SHUTOFF'}, 'SHUTOFF'),
        ({'status': 'PAUSED'}, 'PAUSED'),
        ({'status': 'ERROR'}, 'ERROR'),
        ({'status': 'SHELVED_OFFLOADED'}, 'SHELVED'),
        ({'OS-EXT-STS:task_state': 'deleting'}, 'deleting'),
        ({'OS-EXT-STS:task_state': 'powering-off'}, 'powering-off'),
        ({'locked': True}, 'locked'),
    ],
)
def test_sandboxes_that_take_no_container(uncached, cloud, values, words):
    cloud.server(**values)
    with pytest.raises(errors.SandboxConflict, match=words):
        uncached.resolve(cloud.context(), 'mybox')


@pytest.mark.parametrize(
    'values', [{'status': 'BUILD'}, {'status': 'REBOOT'}, {'OS-EXT-STS:task_state': 'spawning'}]
)
def test_sandboxes_that_take_a_container_soon(uncached, cloud, values):
    server = cloud.server(**values)
    assert uncached.resolve(cloud.context(), 'mybox').id == server['id']


VM_FLAVOR = {'flavor': {**fake_cloud.flavor('vm', 1, 64, sandbox=False), 'original_name': 'vm'}}


@pytest.mark.parametrize(
    ('values', 'properties', 'is_one'),
    [
        ({}, {}, True),
        (VM_FLAVOR, {}, False),
        (VM_FLAVOR, {'img_hv_type': 'docker'}, True),
        (VM_FLAVOR, {'trait:CUSTOM_ZUN_SANDBOX': 'required'}, True),
        (VM_FLAVOR, {'img_hv_type': 'qemu'}, False),
        ({**VM_FLAVOR, 'image': {'id': 'deleted'}}, {}, False),
        ({**VM_FLAVOR, 'image': ''}, {}, False),  # booted from a volume
        ({'image': ''}, {}, True),
    ],
)
def test_a_virtual_machine_is_no_sandbox(uncached, cloud, values, properties, is_one):
    cloud.images[0].update(properties)
    server = cloud.server(**values)
    if is_one:
        assert uncached.resolve(cloud.context(), 'mybox').id == server['id']
        return
    with pytest.raises(errors.SandboxNotUsable, match='CUSTOM_ZUN_SANDBOX'):
        uncached.resolve(cloud.context(), 'mybox')


def test_what_is_here_is_a_sandbox(uncached, cloud, local):
    server = cloud.server(**VM_FLAVOR)
    write(local, record(server))
    found = uncached.resolve(cloud.context(), 'mybox')
    assert uncached.limits(found).memory_mb == 256
    assert uncached.limits_of(server['id']).memory_mb == 256


def test_the_limits_of_a_sandbox_elsewhere_are_its_flavors(uncached, cloud):
    server = cloud.server()
    assert uncached.limits_of(server['id']).memory_mb == 512
    with pytest.raises(errors.SandboxNotFound):
        uncached.limits_of(str(uuid.uuid4()))


@pytest.mark.parametrize('state', ['stopping', 'stopped', 'paused', 'deleting'])
def test_this_host_knows_better_than_an_answer_of_some_seconds_ago(sandboxes, cloud, local, state):
    server = cloud.server()
    write(local, record(server))
    for _ in range(3):
        sandboxes.resolve(cloud.context(), 'mybox')
    assert len(cloud.asked('GET', '/v2.1/servers/detail')) == 1
    write(local, record(server, state=contract.State(state)))
    with pytest.raises(errors.SandboxConflict):
        sandboxes.resolve(cloud.context(), 'mybox')


def test_nova_is_asked_once_about_a_sandbox_of_this_host_that_is_named_by_its_id(cloud, local):
    sandboxes = Sandboxes(cloud.conf(sandbox__nova_cache_seconds=0), local)
    here, elsewhere = cloud.server(), cloud.server(name='other')
    write(local, record(here))
    by_id = '/v2.1/servers/' + here['id']
    for ident, path, questions in (
        (here['id'], by_id, 1),
        ('mybox', '/v2.1/servers/detail', 3),
        (elsewhere['id'], '/v2.1/servers/' + elsewhere['id'], 3),
    ):
        for _ in range(3):
            sandboxes.resolve(cloud.context(), ident)
        assert len(cloud.asked('GET', path)) == questions
    # What it was when Nova was asked is believed no more when the record has contradicted it.
    write(local, record(here, state=contract.State.STOPPED))
    with pytest.raises(errors.SandboxConflict):
        sandboxes.resolve(cloud.context(), here['id'])
    write(local, record(here))
    sandboxes.resolve(cloud.context(), here['id'])
    assert len(cloud.asked('GET', by_id)) == 2


def test_a_sandbox_that_was_here_is_asked_for_anew(sandboxes, cloud, local):
    server = cloud.server()
    write(local, record(server))
    sandboxes.resolve(cloud.context(), server['id'])
    del cloud.servers[server['id']]
    local.remove(server['id'])
    with pytest.raises(errors.SandboxNotFound):
        sandboxes.resolve(cloud.context(), server['id'])


def test_an_answer_is_one_projects(sandboxes, cloud):
    server = cloud.server()
    sandboxes.resolve(cloud.context(), server['id'])
    with pytest.raises(errors.SandboxNotFound):
        sandboxes.resolve(cloud.context('p2'), server['id'])


def test_a_refusal_is_not_kept(sandboxes, cloud):
    server = cloud.server(status='SHUTOFF')
    with pytest.raises(errors.SandboxConflict):
        sandboxes.resolve(cloud.context(), 'mybox')
    server['status'] = 'ACTIVE'
    assert sandboxes.resolve(cloud.context(), 'mybox').id == server['id']


def test_a_record_that_cannot_be_read_is_left_alone(uncached, cloud, local):
    server = cloud.server()
    (local.create(server['id']) / 'sandbox.json').write_text('{"version": 99}')
    with pytest.raises(errors.SandboxConflict, match='cannot be read'):
        uncached.resolve(cloud.context(), 'mybox')


def test_addresses_in_the_form_of_zun(uncached, cloud):
    server = cloud.server()
    cloud.ports = [
        {
            'id': 'port-1',
            'device_id': server['id'],
            'fixed_ips': [{'subnet_id': 'sub-4', 'ip_address': '10.0.0.5'}],
        }
    ]
    common = {'network_id': 'net-1', 'port_id': 'port-1', 'mac': 'fa:16:3e:00:00:01'}
    sandbox = record(
        server,
        addresses=(
            contract.Address(**common, address='10.0.0.5', prefix_length=24, version=4),
            contract.Address(
                **common, address='fd00::5', prefix_length=64, version=6, preserve_on_delete=True
            ),
        ),
    )
    shown = {
        'net-1': [
            {
                'addr': '10.0.0.5',
                'version': 4,
                'port': 'port-1',
                'subnet_id': 'sub-4',
                'preserve_on_delete': False,
            },
            {
                'addr': 'fd00::5',
                'version': 6,
                'port': 'port-1',
                'subnet_id': None,
                'preserve_on_delete': True,
            },
        ]
    }
    assert uncached.addresses(sandbox) == shown
    assert cloud.requests[-1].token == fake_cloud.SERVICE_TOKEN
    assert networks.addresses(sandbox, [])['net-1'][0]['subnet_id'] is None


# The agent's own


def test_the_agent_sees_what_users_do_not(uncached, cloud):
    server = cloud.server(status='ERROR', fault={'message': 'No valid host was found.'})
    found = uncached.server(server['id'])
    assert (found.host, found.fault) == ('h1', 'No valid host was found.')
    assert uncached.server_host(server['id']) == 'h1'
    assert not uncached.server_gone(server['id'])
    assert {request.token for request in cloud.requests} == {fake_cloud.SERVICE_TOKEN}


def test_a_server_that_nova_does_not_know_is_gone(uncached, cloud):
    missing = str(uuid.uuid4())
    assert uncached.server_gone(missing)
    assert uncached.server_host(missing) is None
    deleted = cloud.server(status='DELETED')
    assert uncached.server_gone(deleted['id'])


@pytest.mark.parametrize('status', [500, 503, 'drop', 401, 403])
def test_nova_that_does_not_say_leaves_it_open(uncached, cloud, status):
    server = cloud.server()
    cloud.fail('GET', '/v2.1/servers/.*', status, {'error': {'message': 'x'}})
    with pytest.raises(errors.AgentError):
        uncached.server_gone(server['id'])


def test_a_server_is_deleted(uncached, cloud):
    server = cloud.server()
    assert not uncached.delete_server(server['id'], 'p1')
    assert uncached.delete_server(server['id'], 'p1')
    (request,) = cloud.asked('DELETE', '.*')
    assert request.token == fake_cloud.SERVICE_TOKEN


def test_a_server_that_is_being_deleted_is_left_to_it(uncached, cloud):
    server = cloud.server(**{'OS-EXT-STS:task_state': 'deleting'})
    assert not uncached.delete_server(server['id'], 'p1')
    assert cloud.asked('DELETE', '.*') == []


def test_a_server_that_the_cloud_keeps_for_a_while_goes_at_once(uncached, cloud):
    server = cloud.server(status='SOFT_DELETED')
    uncached.delete_server(server['id'], 'p1')
    assert cloud.servers == {}
    assert cloud.asked('DELETE', '.*') == []


def test_another_projects_server_is_never_deleted(uncached, cloud):
    server = cloud.server(tenant_id='p2')
    with pytest.raises(errors.Forbidden):
        uncached.delete_server(server['id'], 'p1')
    assert server['id'] in cloud.servers


def test_the_server_of_an_intent_is_found(uncached, cloud):
    made = intent(name='web')
    made.created_at = fake_created()
    mine = cloud.server(name='web', metadata={'zun_intent': made.intent_id})
    cloud.server(name='web', metadata={'zun_intent': 'another'})
    cloud.server(name='web', tenant_id='p2', metadata={'zun_intent': made.intent_id})
    cloud.server(name='web2', metadata={'zun_intent': made.intent_id})
    cloud.server(name='web', status='DELETED', metadata={'zun_intent': made.intent_id})
    assert [found.id for found in uncached.servers_of_intent(made)] == [mine['id']]


def fake_created():
    from zun_agent import models

    return models.now()
