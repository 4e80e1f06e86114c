"""The clients that exist, unmodified, over HTTP: library, ``zun`` and ``openstack``."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.fakes import FakeManager
from zun_agent.models import Container, Status

api_versions = pytest.importorskip('zunclient.api_versions')

from zunclient import shell as zun_shell  # noqa: E402
from zunclient.common.apiclient import exceptions as client_errors  # noqa: E402
from zunclient.v1 import client as zun_client  # noqa: E402

pytestmark = pytest.mark.filterwarnings('default')  # the clients' own


def keystone(container_url: str) -> Any:
    """Return an identity service that gives everyone the same token and catalogue."""
    endpoint = {'interface': 'public', 'region': 'R', 'region_id': 'R', 'url': container_url}
    token = {
        'token': {
            'methods': ['password'],
            'user': {'id': 'user', 'name': 'demo', 'domain': {'id': 'default'}},
            'project': {'id': 'project', 'name': 'demo', 'domain': {'id': 'default'}},
            'roles': [{'id': 'r', 'name': 'member'}],
            'issued_at': '2026-01-01T00:00:00.000000Z',
            'expires_at': '2099-01-01T00:00:00.000000Z',
            'catalog': [{'type': 'container', 'name': 'zun', 'id': 'c', 'endpoints': [endpoint]}],
        }
    }

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        base = f'http://{environ["HTTP_HOST"]}/v3'
        subject = 'token'
        if environ['PATH_INFO'].endswith('/auth/tokens'):
            asked = json.loads(environ['wsgi.input'].read(int(environ['CONTENT_LENGTH'])))
            name = asked['auth']['identity']['password']['user']['name']
            subject = 'admin' if name == 'admin' else 'token'
            body, status = token, '201 Created'
        else:
            links = [{'rel': 'self', 'href': base}]
            body = {'version': {'id': 'v3.14', 'status': 'stable', 'links': links}}
            status = '200 OK'
        headers = [('Content-Type', 'application/json'), ('X-Subject-Token', subject)]
        start_response(status, headers)
        return [json.dumps(body).encode()]

    return application


@pytest.fixture
def url(serve: Callable[[Any], str], application: Any) -> str:
    return serve(application)


Library = Callable[..., Any]


@pytest.fixture
def library(url: str) -> Library:
    def make(version: str = '1.40', token: str = 'token') -> Any:
        return zun_client.Client(
            auth_token=token,
            endpoint_override=f'{url}/v1',
            api_version=api_versions.APIVersion(version),
        )

    return make


def _run(manager: FakeManager) -> Container:
    """Let the newest container run, as the reconciler would."""
    container = list(manager.containers.values())[-1]
    container.status = Status.RUNNING
    return container


# --- the library


def test_negotiation(url: str) -> None:
    first = zun_client.Client(
        auth_token='token',
        endpoint_override=f'{url}/v1',
        api_version=api_versions.APIVersion('1.1'),
    )
    latest = api_versions.APIVersion('1.latest')
    assert api_versions.discover_version(first, latest).get_string() == '1.40'


def test_the_library_at_the_latest_version(library: Library, manager: FakeManager) -> None:
    zun = library()
    made = zun.containers.run(
        name='web',
        image='nginx',
        command=['nginx', '-g', 'daemon off;'],
        environment={'A': 'b'},
        interactive=True,
        restart_policy={'Name': 'on-failure', 'MaximumRetryCount': '2'},
        nets=[{'network': 'private'}],
        hints={'sandbox': 'box'},
    )
    spec = manager.called('create')[0]['spec']
    assert spec['command'] == ['nginx', '-g', 'daemon off;']
    assert spec['tty'] is True
    _run(manager)
    assert zun.containers.get('web').status == 'Running'
    assert [each.uuid for each in zun.containers.list()] == [made.uuid]
    assert zun.containers.list(name='other') == []
    assert zun.containers.logs(
        'web', stdout=False, stderr=False, timestamps=False, tail='all', since=None
    ).endswith('world\n')
    output = zun.containers.execute('web', command='"ls" "-l"', run=True, interactive=False)
    assert output['output'] == 'ls -l\n'
    assert zun.containers.top('web')['Titles'] == ['PID', 'CMD']
    assert 'CPU %' in zun.containers.stats('web')
    zun.containers.kill('web')
    zun.containers.kill('web', 'HUP')
    assert [call['signal'] for call in manager.called('kill')] == [None, 'HUP']
    zun.containers.pause('web')
    zun.containers.unpause('web')
    zun.containers.restart('web', 10)
    zun.containers.stop('web', 10)
    zun.containers.start('web')
    assert zun.containers.update('web', name='shop', memory='64').name == 'shop'
    (network,) = zun.containers.network_list('shop')
    assert network.fixed_ips[0]['ip_address'] == '10.0.0.5'
    assert [action.action for action in zun.actions.list('shop')][:2] == ['create', 'logs']
    zun.containers.delete('shop', stop=True)
    with pytest.raises(client_errors.NotFound, match='could not be found'):
        zun.containers.get('shop')


@pytest.mark.parametrize('version', ['1.1', '1.12', '1.18', '1.36'])
def test_the_library_at_older_versions(
    library: Library, manager: FakeManager, version: str
) -> None:
    zun = library(version)
    zun.containers.run(name='web', image='nginx', command=['sh', '-c', 'sleep 5'], interactive=True)
    spec = manager.called('create')[0]['spec']
    assert spec['command'] == ['sh', '-c', 'sleep 5']
    assert spec['tty'] is True
    _run(manager)
    zun.containers.stop('web', 1)
    zun.containers.delete('web')
    assert zun.containers.list() == []


def test_as_heat_uses_the_library(library: Library, manager: FakeManager) -> None:
    zun = library('1.12')
    made = zun.containers.run(
        name='stack-web', image='nginx', command=['nginx'], security_groups=[], mounts=[]
    )
    assert library('1.18').containers.network_list(made.uuid)
    _run(manager)
    zun.containers.delete(made.uuid, stop=True)
    with pytest.raises(client_errors.NotFound):
        zun.containers.get(made.uuid)


def test_pages_of_the_library(library: Library, manager: FakeManager) -> None:
    for _ in range(7):
        manager.add()
    first = library().containers.list(limit=3)
    assert len(first) == 3
    rest = library().containers.list(limit=10, marker=first[-1].uuid)
    assert len(rest) == 4


def test_the_library_as_administrator(library: Library, manager: FakeManager) -> None:
    manager.add()
    zun = library(token='admin')
    assert len(zun.containers.list(all_projects=True)) == 1
    (host,) = zun.hosts.list()
    assert host.hostname == 'one'
    assert zun.hosts.get('one').uuid == host.uuid
    assert [each.state for each in zun.services.list()] == ['up']
    zones = {each.availability_zone for each in zun.availability_zones.list()}
    assert zones == {'nova', 'edge'}


def test_how_the_library_tells_errors(library: Library, manager: FakeManager) -> None:
    zun = library()
    manager.add(name='web', status=Status.STOPPED)
    with pytest.raises(client_errors.Conflict, match='Cannot stop container'):
        zun.containers.stop('web', 10)
    with pytest.raises(client_errors.BadRequest, match='memory'):
        zun.containers.create(image='nginx', memory='lots')
    with pytest.raises(client_errors.Forbidden, match='Policy does not allow'):
        zun.hosts.list()
    with pytest.raises(client_errors.HttpServerError, match='not supported'):
        zun.containers.attach('web')
    with pytest.raises(client_errors.HttpServerError, match='not supported'):
        zun.capsules.list()
    manager.failure = ZeroDivisionError()
    with pytest.raises(client_errors.InternalServerError) as caught:
        zun.containers.list()
    assert 'Correlation id' in caught.value.details


# --- the commands


Command = Callable[[str], str]


@pytest.fixture
def settings(serve: Callable[[Any], str], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [known for known in os.environ if known.startswith('OS_')]:
        monkeypatch.delenv(name)  # of a shell that uses a cloud
    for name, value in {
        'OS_AUTH_URL': serve(keystone(f'{url}/v1')) + '/v3',
        'OS_USERNAME': 'demo',
        'OS_PASSWORD': 'demo',
        'OS_PROJECT_NAME': 'demo',
        'OS_USER_DOMAIN_NAME': 'Default',
        'OS_PROJECT_DOMAIN_NAME': 'Default',
        'OS_REGION_NAME': 'R',
        'OS_IDENTITY_API_VERSION': '3',
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def zun(settings: None, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(line: str) -> str:
        capsys.readouterr()
        zun_shell.OpenStackZunShell().main(shlex.split(line))
        return capsys.readouterr().out

    return run


def test_the_zun_command(zun: Command, manager: FakeManager) -> None:
    assert 'Creating' in zun('run --name pingtest alpine ping -c 4 10.0.0.1')
    spec = manager.called('create')[0]['spec']
    assert spec['command'] == ['ping', '-c', '4', '10.0.0.1']
    container = _run(manager)
    listing = zun('list')
    assert 'pingtest' in listing
    assert '10.0.0.5' in listing
    assert 'hällo' in zun('logs pingtest')
    assert 'Running' in zun('show pingtest')
    assert 'a b' in zun('exec pingtest echo "a b"')
    assert manager.called('execute') == [{'command': ['echo', 'a b']}]
    zun('stats pingtest')
    zun('kill pingtest')
    zun('pause pingtest')
    zun('unpause pingtest')
    zun('update pingtest --name ping2 --memory 64')
    assert container.name == 'ping2'
    zun('restart ping2')
    zun('stop --timeout 3 ping2')
    assert manager.called('stop') == [{'timeout': 3}]
    zun('start ping2')
    assert '10.0.0.5' in zun('network-list ping2')
    assert 'create' in zun('action-list ping2')
    zun('delete --stop ping2')
    assert 'ping2' not in zun('list')
    zun('create --name cube --cpu 0.5 --memory 64 --hint sandbox=box --net network=private nginx')
    spec = manager.called('create')[1]['spec']
    assert (spec['cpu'], spec['memory'], spec['hints']) == (0.5, 64, {'sandbox': 'box'})
    assert spec['nets'] == [{'network': 'private'}]


@pytest.mark.parametrize('version', ['1.1', '1.12', '1.18', '1.36'])
def test_the_zun_command_at_older_versions(
    zun: Command, manager: FakeManager, version: str
) -> None:
    zun(f'--zun-api-version {version} create --name web alpine sh -c "sleep 5"')
    assert manager.called('create')[0]['spec']['command'] == ['sh', '-c', 'sleep 5']
    assert 'web' in zun(f'--zun-api-version {version} list')


@pytest.fixture
def openstack(settings: None, capsys: pytest.CaptureFixture[str]) -> Command:
    shell = pytest.importorskip('openstackclient.shell')
    from osc_lib.clientmanager import ClientManager

    def run(line: str) -> str:
        capsys.readouterr()
        for cached in vars(ClientManager).values():
            if hasattr(cached, '_handle'):
                cached._handle = None  # kept for a process, which is one command elsewhere
        status = shell.main(shlex.split(line))
        captured = capsys.readouterr()
        assert status == 0, captured.err
        out: str = captured.out
        return out

    return run


def test_the_openstack_command(openstack: Command, manager: FakeManager) -> None:
    made = openstack('appcontainer run --name pingtest alpine ping -c 4 10.0.0.1')
    assert 'pingtest' in made
    _run(manager)
    (listed,) = json.loads(openstack('appcontainer list -f json'))
    assert listed['name'] == 'pingtest'
    assert 'hällo' in openstack('appcontainer logs pingtest')
    shown = json.loads(openstack('appcontainer show pingtest -f json'))
    assert shown['status'] == 'Running'
    assert 'hi' in openstack('appcontainer exec pingtest echo hi')
    openstack('appcontainer set --name ping2 pingtest')
    openstack('appcontainer stop ping2')
    openstack('appcontainer start ping2')
    openstack('appcontainer action list ping2')
    assert 'nova' in openstack('appcontainer availability zone list')
    openstack('appcontainer delete --stop ping2')
    assert json.loads(openstack('appcontainer list -f json')) == []


def test_the_openstack_command_as_administrator(
    openstack: Command, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('OS_USERNAME', 'admin')
    manager.add(name='web')
    (service,) = json.loads(openstack('appcontainer service list -f json'))
    assert (service['Host'], service['State']) == ('one', 'up')
    (host,) = json.loads(openstack('appcontainer host list -f json'))
    assert host['hostname'] == 'one'
    assert 'Debian' in openstack('appcontainer host show one')
    assert 'web' in openstack('appcontainer list --all-projects')
    openstack('appcontainer delete --force --all-projects web')
    assert not manager.containers


@pytest.mark.parametrize('version', ['1.1', '1.12', '1.18', '1.40'])
def test_the_openstack_command_at_older_versions(
    openstack: Command, manager: FakeManager, version: str
) -> None:
    command = f'--os-container-api-version {version} appcontainer'
    openstack(f'{command} create --name web --workdir /srv alpine sh -c "sleep 5"')
    assert manager.called('create')[0]['spec']['command'] == ['sh', '-c', 'sleep 5']
    assert 'web' in openstack(f'{command} list')
