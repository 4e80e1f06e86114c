"""The API on the real manager and store; only Nova, Docker and the reconciler are played."""

from __future__ import annotations

import dataclasses
import runpy
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import Client

from tests.api.conftest import Api, authenticate
from zun_agent import errors
from zun_agent.api import app
from zun_agent.manager import Manager
from zun_agent.models import Desired, Status
from zun_agent.store import Store
from zun_virt.sandbox import Limits


@dataclasses.dataclass
class Server:
    id: str


class Nova:
    """Makes a sandbox for everybody who asks, up to a quota."""

    quota = 3

    def __init__(self) -> None:
        self.servers: list[str] = []

    def plan(self, context: Any, container: Any, *, host: str | None = None) -> Any:
        return container

    def create(self, context: Any, plan: Any) -> str:
        if len(self.servers) >= self.quota:
            raise errors.OverQuota('Quota exceeded for instances: Requested 1, but already used 3')
        self.servers.append(str(uuid.uuid4()))
        return self.servers[-1]

    def resolve(self, context: Any, ident: str) -> Server:
        if ident not in self.servers:
            raise errors.SandboxNotFound(f'Sandbox {ident} could not be found.')
        return Server(ident)

    def limits(self, server: Server) -> Limits:
        return Limits(cpus=2, memory_mb=512, pids=None)

    def limits_of(self, server_id: str) -> Limits:
        return self.limits(Server(server_id))


class Images:
    def resolve(self, context: Any, driver: str, name: str) -> str:
        return name


class Docker:
    def logs(self, docker_id: str, **arguments: Any) -> str:
        return f'log of {docker_id}\n'

    def execute(self, docker_id: str, command: list[str]) -> tuple[str, int | None]:
        return ' '.join(command), 3


class Host:
    """The manager and what is below it."""

    def __init__(self, conf: Any, url: str) -> None:
        self.store = Store(url)
        self.store.migrate()
        self.nova = Nova()
        self.woken: list[str] = []
        self.manager = Manager(
            conf,
            self.store,
            Docker(),  # type: ignore[arg-type]
            self.nova,  # type: ignore[arg-type]
            Images(),  # type: ignore[arg-type]
            lambda container, since: self.woken.append(container.uuid),
        )

    def converge(self) -> None:
        """Do what the reconciler would, as if all went well."""
        for container in self.store.page(
            None, filters={}, limit=None, marker=None, sort_key='id', sort_dir='asc'
        ):
            if container.desired == Desired.DELETED:
                self.store.remove_container(container.uuid)
                continue
            status = {'running': Status.RUNNING, 'stopped': Status.STOPPED}.get(
                container.desired, Status.CREATED
            )
            self.store.observe(
                container.uuid,
                status=status,
                docker_id='d' * 64,
                host='one',
                done_generation=container.generation,
            )


@pytest.fixture
def host(conf: Any, tmp_path: Any) -> Iterator[Host]:
    made = Host(conf, f'sqlite:///{tmp_path}/zun.sqlite')
    yield made
    made.store.close()


@pytest.fixture
def api(conf: Any, host: Host) -> Api:
    return Api(app.build(conf, host.manager, authenticate))


def test_the_life_of_a_container(api: Api, host: Host) -> None:
    body = {'image': 'alpine', 'name': 'web', 'command': ['sh'], 'environment': {'A': 'b'}}
    made = api('POST', '/v1/containers?run=true', body)
    assert made.status_code == 202, made.text
    assert (made.json['status'], made.json['uuid']) == ('Creating', host.nova.servers[0])
    assert made.json['task_state'] == 'container_creating'
    assert host.woken == [made.json['uuid']]
    assert api('POST', '/v1/containers/web/stop').status_code == 409
    host.converge()
    assert api('GET', '/v1/containers/web').json['status'] == 'Running'
    assert api('GET', '/v1/containers/web/logs').json == f'log of {"d" * 64}\n'
    answer = api('POST', '/v1/containers/web/execute?command=ls').json
    assert (answer['output'], answer['exit_code']) == ('ls', 3)
    assert api('POST', '/v1/containers/web/stop').status_code == 202
    assert api('GET', '/v1/containers/web').json['task_state'] == 'container_stopping'
    host.converge()
    assert api('PATCH', '/v1/containers/web', {'name': 'shop', 'memory': 64}).status_code == 200
    assert api('DELETE', '/v1/containers/shop').status_code == 204
    assert api('GET', '/v1/containers/shop').json['status'] == 'Deleting'
    assert api('POST', '/v1/containers/shop/start').status_code == 409
    host.converge()
    assert api('GET', '/v1/containers/shop').status_code == 404


def test_joining_a_sandbox(api: Api, host: Host) -> None:
    first = api('POST', '/v1/containers?run=true', {'image': 'alpine'}).json['uuid']
    hints = {'sandbox': first}
    second = api('POST', '/v1/containers', {'image': 'alpine', 'name': 'joined', 'hints': hints})
    assert second.status_code == 202
    assert second.json['uuid'] != first
    for body, status, named in (
        ({'hints': {'sandbox': 'none'}}, 404, 'none'),
        ({'hints': hints, 'memory': 1024}, 400, '512 MiB'),
        ({'hints': hints, 'cpu': 3}, 400, 'cpu 3'),
        ({'hints': hints, 'nets': [{'network': 'a'}]}, 400, 'nets'),
        ({'hints': hints, 'security_groups': ['a']}, 400, 'security_groups'),
        ({'hints': hints, 'availability_zone': 'a'}, 400, 'availability_zone'),
        ({'hints': {**hints, 'flavor': 'small'}}, 400, 'flavor'),
    ):
        refused = api('POST', '/v1/containers', {'image': 'alpine', **body})
        assert refused.status_code == status, body
        assert named in refused.json['errors'][0]['title']
    host.converge()
    assert api('POST', f'/v1/containers/{first}/stop').status_code == 202
    host.converge()
    refused = api('DELETE', f'/v1/containers/{first}')
    assert refused.status_code == 409
    assert 'joined' in refused.json['errors'][0]['title']


def test_nova_says_no(api: Api, host: Host) -> None:
    for _ in range(3):
        assert api('POST', '/v1/containers', {'image': 'alpine'}).status_code == 202
    refused = api('POST', '/v1/containers', {'image': 'alpine'})
    assert refused.status_code == 403
    assert 'Quota exceeded' in refused.json['errors'][0]['title']
    assert refused.json['errors'][0]['code'] == 'container.over-quota'
    assert len(api('GET', '/v1/containers').json['containers']) == 3


def test_tenants(api: Api) -> None:
    uuid_ = api('POST', '/v1/containers', {'image': 'alpine', 'name': 'web'}).json['uuid']
    for ident in (uuid_, 'web'):
        assert api('GET', f'/v1/containers/{ident}', token='other').status_code == 404
        assert api('GET', f'/v1/containers/{ident}', token='admin').status_code == 200
    assert api('GET', '/v1/containers', token='other').json['containers'] == []
    found = api('GET', '/v1/containers?all_projects=1&project_id=project', token='admin').json
    assert [each['uuid'] for each in found['containers']] == [uuid_]


def test_pages_and_filters(api: Api, host: Host) -> None:
    host.nova.quota = 9
    for number in range(7):
        api('POST', '/v1/containers', {'image': 'alpine', 'name': f'c{number}', 'memory': 64})
    seen: list[str] = []
    url = '/v1/containers?limit=3&sort_key=name&sort_dir=desc&memory=64&status=Creating'
    while url:
        page = api('GET', url).json
        seen += [each['name'] for each in page['containers']]
        url = page['next']
    assert seen == ['c6', 'c5', 'c4', 'c3', 'c2', 'c1', 'c0']
    assert len(api('GET', '/v1/containers?auto_remove=false').json['containers']) == 7
    assert api('GET', f'/v1/containers?memory={2**63 - 1}').json['containers'] == []
    for query in (
        *('marker=none', 'sort_key=desired', 'memory=much', 'auto_remove=perhaps'),
        *(f'memory={2**63}', f'memory=-{2**70}M'),
    ):
        assert api('GET', f'/v1/containers?{query}').status_code == 400, query


def test_actions(api: Api, host: Host) -> None:
    made = api('POST', '/v1/containers?run=true', {'image': 'alpine', 'name': 'web'})
    host.converge()
    killed = api('POST', '/v1/containers/web/kill?signal=HUP')
    listed = api('GET', '/v1/containers/web/container_actions').json['containerActions']
    assert {each['request_id'] for each in listed} == {
        made.headers['X-Openstack-Request-Id'],
        killed.headers['X-Openstack-Request-Id'],
    }
    one = api('GET', f'/v1/containers/web/container_actions/{listed[0]["request_id"]}').json
    (event,) = one['events']
    assert (event['event'], event['result']) == ('kill', None)


def test_the_service_itself(api: Api, host: Host) -> None:
    host.store.report('one', 'http://127.0.0.1:9517', {'cpus': 4}, 'nova')
    (agent,) = api('GET', '/v1/services', token='admin').json['services']
    assert (agent['host'], agent['state']) == ('one', 'up')
    assert api('GET', '/v1/hosts/one', token='admin').json['cpus'] == 4
    zones = api('GET', '/v1/availability_zones').json['availability_zones']
    assert zones == [{'availability_zone': 'nova'}]


def test_under_another_server(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from oslo_log import log

    file = tmp_path / 'zun-agent.conf'
    file.write_text(
        f'[DEFAULT]\nstate_path = {tmp_path}\nlog_file = {tmp_path}/log\n'
        f'[container]\nimage_drivers =\n'
        '[keystone_authtoken]\nwww_authenticate_uri = http://127.0.0.1/\n'
    )
    monkeypatch.setenv('ZUN_AGENT_CONFIG_FILE', str(file))
    monkeypatch.setattr(log, 'setup', lambda *_: None)  # the tests' own log stays
    loaded = runpy.run_module('zun_agent.api.wsgi')  # as a server would, which does so once
    client = Client(loaded['application'])
    assert client.get('/').status_code == 200
    assert client.get('/v1/containers').status_code == 401
