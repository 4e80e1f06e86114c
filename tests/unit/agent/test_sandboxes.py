import dataclasses
import threading
import uuid

import pytest

from tests.unit.agent import fake_cloud
from zun_agent import errors, networks
from zun_agent.models import Container
from zun_agent.openstack import Cache, OpenStack, Unanswered, versioned
from zun_agent.sandboxes import Sandboxes, build_request
from zun_virt import sandbox as contract


@pytest.fixture
def cloud():
    made = fake_cloud.FakeCloud()
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


def intent(**values):
    made = {'uuid': str(uuid.uuid4()), 'name': 'web', 'project_id': 'p1', 'hints': {}, 'nets': []}
    made = Container(**{**made, **values})
    made.intent_id = made.uuid
    return made


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


def make(sandboxes, context, container, **kwargs):
    return sandboxes.create(context, sandboxes.plan(context, container, **kwargs))


# New sandboxes


def test_a_sandbox_is_made_in_the_users_name(sandboxes, cloud):
    container = intent()
    server_id = make(sandboxes, cloud.context(), container)
    assert cloud.servers[server_id]['tenant_id'] == 'p1'
    (request,) = cloud.asked('POST', '/v2.1/servers')
    assert request.token == 'token-of-p1'
    assert request.microversion == '2.74'
    assert request.body == {
        'server': {
            'name': 'web',
            'flavorRef': 'id-small',
            'imageRef': cloud.images[0]['id'],
            'networks': [{'uuid': 'net-private'}],
            'metadata': {'zun_intent': container.intent_id},
        }
    }
    assert all(request.token == 'token-of-p1' for request in cloud.requests)


def test_what_nova_and_neutron_said_is_asked_once(sandboxes, cloud):
    for _ in range(3):
        make(sandboxes, cloud.context(), intent())
    assert len(cloud.asked('GET', '/v2.1/flavors/detail')) == 1
    assert len(cloud.asked('GET', '/v2/images')) == 1
    assert len(cloud.asked('GET', '/v2.0/networks')) == 1
    make(sandboxes, cloud.context('p2'), intent(nets=[{'network': 'private'}]))
    assert len(cloud.asked('GET', '/v2.1/flavors/detail')) == 2


@pytest.mark.parametrize(
    ('values', 'host', 'expected', 'microversion'),
    [
        ({}, None, {}, '2.74'),
        ({'hostname': 'db'}, None, {'hostname': 'db'}, '2.90'),
        ({'hostname': 'db.example'}, None, {'hostname': 'db.example'}, '2.94'),
        ({'availability_zone': 'west'}, None, {'availability_zone': 'west'}, '2.74'),
        ({}, 'h7', {'host': 'h7'}, '2.74'),
        ({'security_groups': ['a', 'b']}, None, {'security_groups': [{'name': 'a'}, {'name': 'b'}]},
         '2.74'),
    ],
)  # fmt: skip
def test_what_a_request_says_of_its_server(values, host, expected, microversion):
    container = intent(**values)
    plan = build_request(container, flavor_id='f', image_id='i', nets=[], host=host)
    server = plan.body['server']
    assert plan.microversion == microversion
    plain = {'name', 'flavorRef', 'imageRef', 'networks', 'metadata'}
    assert {key: server[key] for key in server if key not in plain} == expected
    assert 'os:scheduler_hints' not in plan.body


def test_hints_that_are_not_ours_are_novas():
    container = intent(hints={'flavor': 'f', 'different_host': ['x'], 'group': 'g'})
    plan = build_request(container, flavor_id='f', image_id='i', nets=[])
    assert plan.body['os:scheduler_hints'] == {'different_host': ['x'], 'group': 'g'}


def test_the_operators_image_comes_before_one_of_the_users(sandboxes, cloud):
    cloud.images.insert(
        0, fake_cloud.image('kubernetes/pause', visibility='private', created_at='2020')
    )
    make(sandboxes, cloud.context(), intent())
    assert (
        cloud.asked('POST', '/v2.1/servers')[0].body['server']['imageRef']
        == (cloud.images[1]['id'])
    )


def test_the_image_may_be_given_by_its_id(cloud, local):
    sandboxes = Sandboxes(cloud.conf(sandbox__image=cloud.images[0]['id']), local)
    make(sandboxes, cloud.context(), intent())
    assert (
        cloud.asked('POST', '/v2.1/servers')[0].body['server']['imageRef']
        == (cloud.images[0]['id'])
    )


def test_a_missing_image_is_the_operators_to_see_to(sandboxes, cloud):
    cloud.images = []
    with pytest.raises(errors.SandboxImageMissing, match=r'\[sandbox\] image'):
        make(sandboxes, cloud.context(), intent())


@pytest.mark.parametrize(
    ('status', 'body', 'error', 'words'),
    [
        (403, {'forbidden': {'message': 'Quota exceeded for cores'}}, errors.OverQuota,
         'Quota exceeded for cores'),
        (403, {'forbidden': {'message': 'Maximum number of ports exceeded'}}, errors.OverQuota,
         'ports'),
        (403, {'forbidden': {'message': "Policy doesn't allow it"}}, errors.Forbidden, 'Policy'),
        (413, {'overLimit': {'message': 'Too many'}}, errors.OverQuota, 'Too many'),
        (400, {'badRequest': {'message': 'Bad network'}}, errors.Invalid, 'Bad network'),
        (404, {'itemNotFound': {'message': 'No such thing'}}, errors.Invalid, 'No such thing'),
        (409, {'conflictingRequest': {'message': 'Ambiguous'}}, errors.NetworkConflict,
         'Ambiguous'),
        (401, {'error': {'message': 'expired'}}, errors.ServiceUnavailable, 'token'),
        (500, {'computeFault': {'message': 'Oops'}}, errors.NovaError, 'Oops'),
        (503, 'no server', Unanswered, 'Nova does not answer'),
        (302, None, Unanswered, 'redirect'),
        ('drop', None, Unanswered, 'does not answer'),
        (202, {'nothing': 1}, Unanswered, 'without one'),
        (202, 'what is this', Unanswered, 'not JSON'),
    ],
)  # fmt: skip
def test_what_novas_refusals_become(sandboxes, cloud, status, body, error, words):
    cloud.fail('POST', '/v2.1/servers', status, body)
    with pytest.raises(error, match=words) as caught:
        make(sandboxes, cloud.context(), intent())
    assert type(caught.value) is error


def test_a_forbidden_request_is_not_taken_for_a_quota():
    assert not issubclass(errors.Forbidden, errors.OverQuota)


def test_nova_that_is_not_there_has_made_nothing(cloud, local):
    context = cloud.context()
    sandboxes = Sandboxes(cloud.conf(), local)
    plan = sandboxes.plan(context, intent())
    closed = fake_cloud.FakeCloud()
    closed.close()
    for service in context.service_catalog:
        service['endpoints'][0]['internalURL'] = closed.url
    with pytest.raises(errors.ServiceUnavailable) as caught:
        sandboxes.create(context, plan)
    assert not isinstance(caught.value, Unanswered)


def test_a_refusal_makes_us_ask_anew(sandboxes, cloud):
    make(sandboxes, cloud.context(), intent())
    cloud.fail('POST', '/v2.1/servers', 400, {'badRequest': {'message': 'Network is gone'}})
    with pytest.raises(errors.Invalid):
        make(sandboxes, cloud.context(), intent())
    cloud.failures.clear()
    make(sandboxes, cloud.context(), intent())
    assert len(cloud.asked('GET', '/v2.0/networks')) == 2


def test_a_flavor_that_is_new_is_found(sandboxes, cloud):
    make(sandboxes, cloud.context(), intent())
    cloud.flavors.append(fake_cloud.flavor('new', 8, 8192))
    plan = sandboxes.plan(cloud.context(), intent(hints={'flavor': 'new'}))
    assert plan.body['server']['flavorRef'] == 'id-new'
    with pytest.raises(errors.NoSandboxFlavor):
        sandboxes.plan(cloud.context(), intent(hints={'flavor': 'none'}))


def test_a_service_that_is_in_no_catalog(sandboxes, cloud):
    context = cloud.context()
    context.service_catalog = context.service_catalog[1:]
    with pytest.raises(errors.ServiceUnavailable, match='Nova'):
        sandboxes.plan(context, intent())


def test_a_token_without_a_catalog_is_used_all_the_same(sandboxes, cloud):
    context = dataclasses.replace(cloud.context(), service_catalog=[])
    assert make(sandboxes, context, intent()) in cloud.servers
    assert cloud.asked('POST', '/v2.1/servers')[0].token == 'token-of-p1'


# Networks


@pytest.mark.parametrize(
    ('there', 'expected'),
    [
        ([('new', {'created_at': '2026-02'}), ('old', {'created_at': '2026-01'})], 'net-old'),
        ([('shared', {'shared': True, 'created_at': '2020'}), ('mine', {})], 'net-mine'),
        ([('shared', {'shared': True, 'project_id': 'p9'})], 'net-shared'),
        ([('bare', {'subnets': []}), ('full', {'created_at': '2027'})], 'net-full'),
        ([('public', {'router:external': True}), ('mine', {'created_at': '2027'})], 'net-mine'),
        ([], None),
        ([('anothers', {'project_id': 'p9'})], None),
        ([('public', {'router:external': True})], None),
    ],
)
def test_the_network_of_who_names_none(uncached, cloud, there, expected):
    cloud.networks = [fake_cloud.network(name, **values) for name, values in there]
    if expected is None:
        with pytest.raises(errors.NetworkConflict, match='no network'):
            uncached.plan(cloud.context(), intent())
        return
    plan = uncached.plan(cloud.context(), intent())
    assert plan.body['server']['networks'] == [{'uuid': expected}]


@pytest.mark.parametrize(
    ('nets', 'expected'),
    [
        ([{'network': 'private'}], [{'uuid': 'net-private'}]),
        ([{'network': 'net-private', 'v4-fixed-ip': '10.0.0.9'}],
         [{'uuid': 'net-private', 'fixed_ip': '10.0.0.9'}]),
        ([{'network': 'private', 'v6-fixed-ip': 'fd00::9'}],
         [{'uuid': 'net-private', 'fixed_ip': 'fd00::9'}]),
        ([{'port': 'mine'}, {'network': 'private', 'preserve': True}],
         [{'port': 'port-mine'}, {'uuid': 'net-private'}]),
    ],
)  # fmt: skip
def test_networks_that_are_named(uncached, cloud, nets, expected):
    cloud.ports = [{'id': 'port-mine', 'name': 'mine', 'device_id': ''}]
    plan = uncached.plan(cloud.context(), intent(nets=nets))
    assert plan.body['server']['networks'] == expected


@pytest.mark.parametrize(
    ('nets', 'error'),
    [
        ([{'network': 'unknown'}], errors.NetworkNotFound),
        ([{'network': 'twice'}], errors.NetworkConflict),
        ([{'port': 'unknown'}], errors.PortNotFound),
        ([{'port': 'used'}], errors.PortInUse),
        ([{'network': 'private', 'v4-fixed-ip': '10.0.0.9', 'v6-fixed-ip': 'fd00::9'}],
         errors.Invalid),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_had(uncached, cloud, nets, error):
    cloud.networks += [
        fake_cloud.network('twice', id='net-1'),
        fake_cloud.network('twice', id='net-2'),
    ]
    cloud.ports = [{'id': 'port-used', 'name': 'used', 'device_id': 'somebody'}]
    with pytest.raises(error):
        uncached.plan(cloud.context(), intent(nets=nets))
    assert cloud.asked('POST', '.*') == []


@pytest.mark.parametrize(
    ('wanted', 'expected'),
    [(['default'], ['sg-1']), (['sg-1', 'web'], ['sg-1', 'sg-2']), (['shared'], ['sg-9'])],
)
def test_security_groups_become_ids(uncached, cloud, wanted, expected):
    cloud.security_groups += [
        {'id': 'sg-2', 'name': 'web', 'project_id': 'p1'},
        {'id': 'sg-9', 'name': 'shared', 'project_id': 'p9'},
    ]
    container = intent(security_groups=wanted)
    plan = uncached.plan(cloud.context(), container)
    assert container.security_groups == expected
    assert plan.body['server']['security_groups'] == [{'name': each} for each in expected]


@pytest.mark.parametrize(
    ('wanted', 'error'),
    [(['unknown'], errors.SecurityGroupNotFound), (['twice'], errors.NetworkConflict)],
)
def test_security_groups_that_cannot_be_had(uncached, cloud, wanted, error):
    cloud.security_groups += [
        {'id': f'sg-{n}', 'name': 'twice', 'project_id': 'p1'} for n in (2, 3)
    ]
    with pytest.raises(error):
        uncached.plan(cloud.context(), intent(security_groups=wanted))


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


# Sandboxes that are there


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


def test_without_credentials_the_operator_is_told(cloud, local):
    conf = cloud.conf()
    conf.set_override('auth_type', None, group='keystone_auth')
    sandboxes = Sandboxes(conf, local)
    with pytest.raises(errors.ServiceUnavailable, match=r'\[keystone_auth\]'):
        sandboxes.server_gone(str(uuid.uuid4()))
    assert make(sandboxes, cloud.context(), intent()) in cloud.servers


def test_a_download_comes_in_pieces(cloud):
    client = OpenStack(cloud.conf()).as_user(cloud.context(), 'image')
    data = b''.join(client.download(f'/images/{cloud.images[0]["id"]}'))
    assert cloud.images[0]['id'].encode() in data
    with pytest.raises(errors.NotFound):
        list(client.download('/images/unknown'))


# The pieces


@pytest.mark.parametrize(
    ('endpoint', 'expected'),
    [
        ('http://h:9292', 'http://h:9292/v2'),
        ('http://h/image/', 'http://h/image/v2'),
        ('http://h:9292/v2', 'http://h:9292/v2'),
        ('http://h/compute/v2.1', 'http://h/compute/v2.1'),
        ('http://h:8774/v2.1/0123abc', 'http://h:8774/v2.1/0123abc'),
    ],
)
def test_endpoints_with_and_without_a_version(endpoint, expected):
    assert versioned(endpoint, 'v2') == expected


def test_the_cache_asks_once_for_many_threads():
    cache, asked, release = Cache(10), [], threading.Event()

    def ask():
        asked.append(1)
        release.wait(5)
        return 'answer'

    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(cache.get(('k', 'p'), ask)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(5)
    assert (answers, asked) == (['answer'] * 5, [1])


def test_the_cache_forgets_in_time():
    clock = [100.0]
    cache, asked = Cache(10, lambda: clock[0]), []
    for seconds in (0, 9, 2, 9):
        clock[0] += seconds
        cache.get(('k', 'p'), lambda: asked.append(1))
    assert len(asked) == 2
    cache.forget('p')
    cache.get(('k', 'p'), lambda: asked.append(1))
    assert len(asked) == 3


def test_the_cache_keeps_no_failure():
    cache, asked = Cache(10), []

    def ask():
        asked.append(1)
        if len(asked) == 1:
            raise errors.NotFound('not yet')
        return 'there'

    with pytest.raises(errors.NotFound):
        cache.get(('k', 'p'), ask)
    assert cache.get(('k', 'p'), ask) == 'there'


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
