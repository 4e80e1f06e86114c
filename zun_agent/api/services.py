"""The agents."""

from __future__ import annotations

from zun_agent.api import views
from zun_agent.api.request import Request, Response, answer


def index(request: Request) -> Response:
    """``GET /services``"""
    request.authorize('zun-service:get_all')
    manager = request.services.manager
    return answer(
        {
            'services': [
                views.service(each, up=manager.service_is_up(each)) for each in manager.services()
            ]
        }
    )
