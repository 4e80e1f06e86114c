"""The hosts, as their agents describe them."""

from __future__ import annotations

from zun_agent import errors
from zun_agent.api import paging, views
from zun_agent.api.request import Request, Response, answer
from zun_agent.api.versions import Version

_CPU_PINNING = Version(1, 29)
_SORT_KEYS = ('hostname',)


def index(request: Request) -> Response:
    """``GET /hosts``"""
    request.authorize('host:get_all')
    page = paging.page(request, _SORT_KEYS, 'hostname')
    everyone = sorted(request.services.manager.services(), key=lambda service: service.host)
    found = paging.sliced(everyone, page, lambda service: service.uuid)
    cpu_pinning = request.version >= _CPU_PINNING
    return answer(
        {
            'hosts': [
                views.host(each, request.base_url, cpu_pinning=cpu_pinning) for each in found
            ],
            'next': paging.next_link(request, 'hosts', page, [each.uuid for each in found]),
        }
    )


def show(request: Request, ident: str) -> Response:
    """``GET /hosts/{ident}``"""
    request.authorize('host:get')
    for service in request.services.manager.services():
        if ident in (service.uuid, service.host):
            cpu_pinning = request.version >= _CPU_PINNING
            return answer(views.host(service, request.base_url, cpu_pinning=cpu_pinning))
    raise errors.ComputeNodeNotFound(f'Host {ident} could not be found.')
