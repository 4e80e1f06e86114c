"""The requests that changed a container."""

from __future__ import annotations

from zun_agent.api import views
from zun_agent.api.request import Request, Response, answer
from zun_agent.api.versions import Version

_FINISH_TIME = Version(1, 33)


def index(request: Request, ident: str) -> Response:
    """``GET /containers/{ident}/container_actions``"""
    found = request.container(ident, 'container:actions')
    finish_time = request.version >= _FINISH_TIME
    actions = request.services.manager.actions(request.context, found)
    return answer(
        {'containerActions': [views.action(each, finish_time=finish_time) for each in actions]}
    )


def show(request: Request, ident: str, request_id: str) -> Response:
    """``GET /containers/{ident}/container_actions/{request_id}``"""
    found = request.container(ident, 'container:actions')
    action = request.services.manager.action(request.context, found, request_id)
    view = views.action(action, finish_time=request.version >= _FINISH_TIME)
    traceback = request.allows('container:action:events')
    view['events'] = [views.event(action, traceback=traceback)]
    return answer(view)
