"""What Nova is asked for in the user's name, networks included, and what its refusals become."""

import dataclasses
import uuid

import pytest

from tests.unit.agent import fake_cloud
from tests.unit.agent.stored import intent
from zun_agent import errors
from zun_agent.openstack import Unanswered
from zun_agent.sandboxes import Sandboxes, build_request


def make(sandboxes, context, container, **kwargs):
    return sandboxes.create(context, sandboxes.plan(context, container, **kwargs))


# The server


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


def test_without_credentials_the_operator_is_told(cloud, local):
    conf = cloud.conf()
    conf.set_override('auth_type', None, group='keystone_auth')
    sandboxes = Sandboxes(conf, local)
    with pytest.raises(errors.ServiceUnavailable, match=r'\[keystone_auth\]'):
        sandboxes.server_gone(str(uuid.uuid4()))
    assert make(sandboxes, cloud.context(), intent()) in cloud.servers


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
