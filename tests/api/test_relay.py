"""Requests about a container on another host, between agents on loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from oslo_config import cfg

from tests.api.conftest import Api, authenticate
from tests.api.fakes import FakeManager, service
from zun_agent import conf as agent_conf
from zun_agent.api import app
from zun_agent.models import Container, Status


class Cloud:
    """Agents `one` and `two` on one store; the container `far` lives on two."""

    def __init__(self, serve: Callable[[Any], str]) -> None:
        self.one, self.two = FakeManager('one'), FakeManager('two')
        self.two.containers = self.one.containers
        self.application = app.build(self.conf('one'), self.one, authenticate)  # type: ignore[arg-type]
        far = app.build(self.conf('two'), self.two, authenticate)  # type: ignore[arg-type]
        self.endpoint = serve(far)
        self.one.known_services = [
            service('one'),
            service('two', endpoint=f'{self.endpoint}/v1'),
        ]
        self.api = Api(self.application)
        self.far: Container = self.one.add(name='far', host='two')

    @staticmethod
    def conf(host: str) -> cfg.ConfigOpts:
        made = cfg.ConfigOpts()
        agent_conf.register(made)
        made(args=[], project='zun-agent', default_config_files=[], default_config_dirs=[])
        made.set_override('host', host)
        made.set_override('timeout', 1, 'docker')
        return made

    def endpoint_of_two(self, url: str) -> None:
        self.one.known_services[1].endpoint = url


@pytest.fixture
def cloud(serve: Callable[[Any], str]) -> Cloud:
    return Cloud(serve)


def acts(manager: FakeManager) -> list[str]:
    return [name for name, _ in manager.calls if name not in ('get', 'services')]


@pytest.mark.parametrize(
    ('method', 'rest', 'body', 'status', 'act'),
    [
        ('GET', '/logs?tail=5', None, 200, 'logs'),
        ('POST', '/execute?command=ls+-l', None, 200, 'execute'),
        ('POST', '/execute', {'command': 'ls -l'}, 200, 'execute'),
        ('GET', '/top', None, 200, 'top'),
        ('GET', '/stats', None, 200, 'stats'),
        ('POST', '/stop?timeout=3', None, 202, 'stop'),
        ('POST', '/kill', {'signal': 'HUP'}, 202, 'kill'),
        ('POST', '/pause', None, 202, 'pause'),
        ('POST', '/reboot', None, 202, 'restart'),
        ('PATCH', '', {'name': 'shop'}, 200, 'update'),
        ('POST', '/resize_container', {'cpu': 1}, 202, 'update'),
        ('DELETE', '?stop=True', None, 204, 'delete'),
    ],
)
def test_the_host_of_the_container_answers(
    cloud: Cloud, method: str, rest: str, body: Any, status: int, act: str
) -> None:
    answer = cloud.api(method, f'/v1/containers/far{rest}', body, version='1.40')
    assert answer.status_code == status, answer.text
    assert acts(cloud.one) == []
    assert acts(cloud.two) == [act]
    assert answer.headers.getlist('OpenStack-API-Version') == ['container 1.40']
    assert len(answer.headers.getlist('X-Openstack-Request-Id')) == 1
    assert len(answer.headers.getlist('Content-Length')) <= 1
    if act == 'update':
        assert answer.json['links'][0]['href'].startswith('http://localhost/v1/containers/')
    if act == 'stop':
        assert cloud.two.called('stop') == [{'timeout': 3}]
    if act == 'logs':
        assert cloud.two.called('logs')[0]['tail'] == 5


def test_an_action_has_the_id_that_the_client_was_told(cloud: Cloud) -> None:
    answer = cloud.api('POST', '/v1/containers/far/stop')
    (action,) = cloud.two.acts[cloud.far.uuid]
    assert action.request_id == answer.headers['X-Openstack-Request-Id']


@pytest.mark.parametrize('rest', ['', '/network_list', '/container_actions'])
def test_what_is_recorded_any_agent_tells(cloud: Cloud, rest: str) -> None:
    assert cloud.api('GET', f'/v1/containers/far{rest}').status_code == 200
    assert not cloud.two.calls


def test_one_hop_only(cloud: Cloud) -> None:
    cloud.endpoint_of_two('http://127.0.0.1:1')
    headers = {'X-Zun-Relayed-From': 'http://somewhere'}
    assert cloud.api('POST', '/v1/containers/far/stop', headers=headers).status_code == 202
    assert acts(cloud.one) == ['stop']


def test_an_agent_reached_under_the_url_of_another_has_not_its_containers(cloud: Cloud) -> None:
    """As where several advertise a loopback address: its own Docker knows nothing of them."""
    cloud.endpoint_of_two('http://127.0.0.1:1')
    headers = {'X-Zun-Relayed-From': 'http://somewhere'}
    answer = cloud.api('GET', '/v1/containers/far/logs', headers=headers)
    assert answer.status_code == 503
    assert acts(cloud.one) == []


def test_its_errors_come_through(cloud: Cloud) -> None:
    cloud.far.status = Status.STOPPED
    answer = cloud.api('POST', '/v1/containers/far/stop')
    assert answer.status_code == 409
    assert answer.json['errors'][0]['code'] == 'container.invalid-state-exception'


def test_the_policy_is_asked_before_anything_is_relayed(cloud: Cloud) -> None:
    answer = cloud.api('GET', '/v1/containers/far/logs', token='other')
    assert answer.status_code == 404
    assert not cloud.two.calls


@pytest.mark.parametrize('why', ['down', 'refused', 'unknown'])
def test_a_host_that_is_gone(cloud: Cloud, why: str) -> None:
    if why == 'down':
        cloud.one.down.add('two')
    elif why == 'refused':
        cloud.endpoint_of_two('http://127.0.0.1:1')
    else:
        cloud.one.known_services.pop()
    told = cloud.api('GET', '/v1/containers/far/logs')
    assert told.status_code == 503
    assert told.json['errors'][0]['code'] == 'container.container-host-not-up'
    assert cloud.far.uuid in told.json['errors'][0]['title']
    # A change is stored for when it is back.
    assert cloud.api('POST', '/v1/containers/far/stop').status_code == 202
    assert acts(cloud.one) == ['stop']


def test_a_host_that_says_nothing(cloud: Cloud) -> None:
    """Whether it took the request is unknown: to store it as well could do it twice."""
    with socket.create_server(('127.0.0.1', 0)) as silent:
        cloud.endpoint_of_two(f'http://127.0.0.1:{silent.getsockname()[1]}')
        for conf in (cloud.api('GET', '/v1/containers/far/logs'), _kill(cloud)):
            assert conf.status_code == 503
    assert acts(cloud.one) == []


def _kill(cloud: Cloud) -> Any:
    return cloud.api('POST', '/v1/containers/far/kill')


def test_a_new_container_on_another_host_is_told_of(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cloud.one.create

    def joined(*args: Any, **kwargs: Any) -> Container:
        container = made(*args, **kwargs)
        container.host = 'two'
        return container

    monkeypatch.setattr(cloud.one, 'create', joined)
    answer = cloud.api('POST', '/v1/containers', {'image': 'alpine', 'hints': {'sandbox': 'box'}})
    assert answer.status_code == 202
    assert cloud.two.called('wake') == [{'uuid': answer.json['uuid']}]
    cloud.endpoint_of_two('http://127.0.0.1:1')
    assert cloud.api('POST', '/v1/containers', {'image': 'alpine'}).status_code == 202


def test_a_front_end_hands_on_what_is_for_its_own_host(cloud: Cloud) -> None:
    front = Api(app.build(cloud.conf('two'), cloud.one, authenticate, reconciles=False))  # type: ignore[arg-type]
    assert front('POST', '/v1/containers/far/stop').status_code == 202
    assert acts(cloud.two) == ['stop']
