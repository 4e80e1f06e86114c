"""The documents by which clients discover the service; they need no token."""

from __future__ import annotations

from zun_agent.api import versions
from zun_agent.api.request import Json, Request, Response, answer

RESOURCES = (
    'services',
    'containers',
    'images',
    'networks',
    'hosts',
    'capsules',
    'availability_zones',
    'quotas',
    'quota_classes',
    'registries',
)


def root(request: Request) -> Response:
    """``GET /``"""
    version: Json = {
        'id': 'v1',
        'links': [{'href': f'{request.base_url}/v1/', 'rel': 'self'}],
        'status': 'CURRENT',
        'max_version': str(versions.LATEST),
        'min_version': str(versions.FIRST),
    }
    return answer(
        {
            'name': 'OpenStack Zun API',
            'description': 'Containers in sandboxes that Nova makes.',
            'versions': [version],
            'default_version': version,
        }
    )


def v1(request: Request) -> Response:
    """``GET /v1``"""
    base_url = request.base_url
    document: Json = {
        'id': 'v1',
        'media_types': [
            {'base': 'application/json', 'type': 'application/vnd.openstack.zun.v1+json'}
        ],
        'links': [
            {'href': f'{base_url}/v1/', 'rel': 'self'},
            {
                'href': 'https://docs.openstack.org/api-ref/application-container/',
                'rel': 'describedby',
                'type': 'text/html',
            },
        ],
    }
    for resource in RESOURCES:
        document[resource] = [
            {'href': f'{base_url}/v1/{resource}/', 'rel': 'self'},
            {'href': f'{base_url}/{resource}/', 'rel': 'bookmark'},
        ]
    return answer(document)
