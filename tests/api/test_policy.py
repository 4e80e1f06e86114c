"""Who may: projects, administrators, and whom the operator's policy lets."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.api.conftest import Api, title
from tests.api.fakes import FakeManager
from zun_agent.api import policies
from zun_agent.models import Status

ADMINISTRATORS = {
    'container:action:events',
    'container:create:image_pull_policy',
    'container:create:requested_destination',
    'container:create:runtime',
    'container:delete_all_projects',
    'container:delete_force',
    'container:get_all:host',
    'container:get_all_all_projects',
    'container:get_one:host',
    'container:get_one:image_pull_policy',
    'container:get_one:privileged',
    'container:get_one:runtime',
    'container:get_one_all_projects',
    'host:get',
    'host:get_all',
    'network:delete',
    'zun-service:delete',
    'zun-service:disable',
    'zun-service:enable',
    'zun-service:force_down',
    'zun-service:get_all',
}
OWNERS = {
    'availability_zones:get_all',
    'container:actions',
    'container:add_security_group',
    'container:attach',
    'container:commit',
    'container:create',
    'container:delete',
    'container:execute',
    'container:execute_resize',
    'container:get_all',
    'container:get_archive',
    'container:get_one',
    'container:kill',
    'container:logs',
    'container:network_attach',
    'container:network_detach',
    'container:network_list',
    'container:pause',
    'container:put_archive',
    'container:reboot',
    'container:rebuild',
    'container:remove_security_group',
    'container:rename',
    'container:resize',
    'container:resize_container',
    'container:start',
    'container:stats',
    'container:stop',
    'container:top',
    'container:unpause',
    'container:update',
}


def test_rules_and_defaults_are_zuns() -> None:
    """As an operator of Zun knows them; see its ``zun/common/policies``."""
    defaults = {rule.name: rule.check_str for rule in policies.list_rules()}
    shared = {
        'context_is_admin': 'role:admin',
        'admin_or_owner': 'is_admin:True or project_id:%(project_id)s',
        'admin_api': 'rule:context_is_admin',
        'deny_everybody': '!',
    }
    assert {name: defaults.pop(name) for name in shared} == shared
    assert defaults.pop('container:create:privileged') == 'rule:deny_everybody'
    assert {
        name for name, said in defaults.items() if said in ('rule:context_is_admin', 'role:admin')
    } == ADMINISTRATORS
    assert {name for name, said in defaults.items() if said == shared['admin_or_owner']} == OWNERS
    assert defaults.keys() == ADMINISTRATORS | OWNERS


def test_another_projects_containers_do_not_exist(api: Api, manager: FakeManager) -> None:
    container = manager.add(name='secret')
    for ident in (container.uuid, 'secret'):
        for method, rest in (
            ('GET', ''),
            ('PATCH', ''),
            ('DELETE', ''),
            ('POST', '/start'),
            ('POST', '/stop'),
            ('POST', '/kill'),
            ('GET', '/logs'),
            ('POST', '/execute?command=ls'),
            ('GET', '/top'),
            ('GET', '/stats'),
            ('GET', '/network_list'),
            ('GET', '/container_actions'),
        ):
            body = {'name': 'mine'} if method == 'PATCH' else None
            answer = api(method, f'/v1/containers/{ident}{rest}', body, token='other')
            assert answer.status_code == 404, (method, rest)
            assert answer.json['errors'][0]['code'] == 'container.container-not-found'
    assert api('GET', '/v1/containers', token='other').json['containers'] == []
    assert {name for name, _ in manager.calls} == {'get', 'list'}


@pytest.mark.parametrize(
    ('method', 'url'),
    [
        ('GET', '/v1/containers?all_projects=1'),
        ('GET', '/v1/containers?all_projects=true'),
        ('GET', '/v1/containers?host=one'),
        ('GET', '/v1/containers/web?all_projects=true'),
        ('DELETE', '/v1/containers/web?all_projects=True'),
        ('DELETE', '/v1/containers/web?force=True'),
    ],
)
def test_what_only_administrators_may(
    api: Api, manager: FakeManager, method: str, url: str
) -> None:
    manager.add(name='web', status=Status.STOPPED)
    refused = api(method, url)
    assert refused.status_code == 403
    assert 'Policy does not allow container:' in title(refused)
    assert api(method, url, token='admin').status_code in (200, 204)


def test_administrators_find_every_project(api: Api, manager: FakeManager) -> None:
    theirs = manager.add(name='web')
    assert api('GET', '/v1/containers/web', token='admin').json['uuid'] == theirs.uuid
    own = manager.add(name='web', project_id='operators')
    assert api('GET', '/v1/containers/web', token='admin').json['uuid'] == own.uuid
    assert api('POST', f'/v1/containers/{theirs.uuid}/stop', token='admin').status_code == 202
    assert len(api('GET', '/v1/containers', token='admin').json['containers']) == 1
    everyone = api('GET', '/v1/containers?all_projects=1', token='admin').json
    assert len(everyone['containers']) == 2


def test_a_name_of_several(api: Api, manager: FakeManager) -> None:
    manager.add(name='web')
    manager.add(name='web')
    answer = api('GET', '/v1/containers/web')
    assert answer.status_code == 409
    assert answer.json['errors'][0]['code'] == 'container.container-name-not-unique'


@pytest.mark.usefixtures('api')  # registers the options
def test_policy_file_is_heeded(manager: FakeManager, conf: Any, tmp_path: Any) -> None:
    (tmp_path / 'policy.yaml').write_text('"container:stop": "!"\n')
    conf.set_override('policy_file', str(tmp_path / 'policy.yaml'), 'oslo_policy')
    from tests.api.conftest import authenticate
    from zun_agent.api import app

    manager.add(name='web')
    strict = Api(app.build(conf, manager, authenticate))  # type: ignore[arg-type]
    assert strict('POST', '/v1/containers/web/stop').status_code == 403
    assert strict('POST', '/v1/containers/web/pause').status_code == 202


@pytest.mark.usefixtures('api')
def test_policy_file_is_heeded_when_it_changes(
    manager: FakeManager, conf: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.api.conftest import authenticate
    from zun_agent.api import app, policies

    path = tmp_path / 'policy.yaml'
    path.write_text('"container:stop": "!"\n')
    os.utime(path, (1, 1))
    conf.set_override('policy_file', str(path), 'oslo_policy')
    manager.add(name='web')
    api = Api(app.build(conf, manager, authenticate))  # type: ignore[arg-type]
    assert api('POST', '/v1/containers/web/stop').status_code == 403
    path.write_text('"container:stop": ""\n')
    assert api('POST', '/v1/containers/web/stop').status_code == 403  # within a second
    monkeypatch.setattr(policies, 'monotonic', lambda: time.monotonic() + 2)
    assert api('POST', '/v1/containers/web/stop').status_code == 202
