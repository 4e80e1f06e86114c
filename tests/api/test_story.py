"""The main job as a story: create, list, show, logs, start, stop, delete."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Api
from tests.api.fakes import FakeManager
from zun_agent.models import Status


def test_a_container_from_create_to_delete(api: Api, manager: FakeManager) -> None:
    made = api('POST', '/v1/containers?run=true', {'name': 'web', 'image': 'nginx'})
    assert made.status_code == 202
    assert made.json['status'] == 'Creating'
    assert made.json['name'] == 'web'
    uuid = made.json['uuid']
    assert made.headers['Location'] == f'http://localhost/v1/containers/{uuid}'
    assert manager.called('create')[0]['run'] is True

    container = manager.containers[uuid]
    container.status = Status.RUNNING
    assert api('GET', '/v1/containers/web').json['status'] == 'Running'
    assert [each['uuid'] for each in api('GET', '/v1/containers').json['containers']] == [uuid]
    assert api('GET', f'/v1/containers/{uuid}/logs').json == 'hällo\nworld\n'

    def post(action: str) -> Any:
        answer = api('POST', f'/v1/containers/{uuid}/{action}')
        return answer.status_code, answer.json

    assert post('stop?timeout=3') == (202, None)
    assert manager.called('stop') == [{'timeout': 3}]
    assert api('GET', '/v1/containers/web').json['status_detail'] == 'Exited(0) 0 seconds ago '
    assert post('start') == (202, None)
    assert post('pause') == (202, None)
    assert post('unpause') == (202, None)
    assert post('reboot') == (202, None)
    assert post('kill?signal=HUP') == (202, None)
    assert api('DELETE', f'/v1/containers/{uuid}').status_code == 409
    gone = api('DELETE', f'/v1/containers/{uuid}?stop=True')
    assert (gone.status_code, gone.data) == (204, b'')
    missing = api('GET', f'/v1/containers/{uuid}')
    assert missing.status_code == 404
    assert missing.json['errors'][0]['code'] == 'container.container-not-found'
