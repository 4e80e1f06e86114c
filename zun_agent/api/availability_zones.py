"""The availability zones."""

from __future__ import annotations

from zun_agent.api import paging
from zun_agent.api.request import Request, Response, answer

_SORT_KEYS = ('availability_zone',)


def index(request: Request) -> Response:
    """``GET /availability_zones``"""
    request.authorize('availability_zones:get_all')
    page = paging.page(request, _SORT_KEYS, 'availability_zone')
    everyone = sorted(request.services.manager.availability_zones())
    found = paging.sliced(everyone, page, str)
    return answer(
        {
            'availability_zones': [{'availability_zone': zone} for zone in found],
            'next': paging.next_link(request, 'availability_zones', page, found),
        }
    )
