"""Every URL of the API, what answers it, and at which microversions."""

from __future__ import annotations

import dataclasses
import re
import typing

from werkzeug import routing

from zun_agent import errors
from zun_agent.api import (
    actions,
    availability_zones,
    container_actions,
    containers,
    hosts,
    live,
    networks,
    root,
    services,
)
from zun_agent.api.unsupported import refuse
from zun_agent.api.versions import FIRST, LATEST, Version

if typing.TYPE_CHECKING:
    from zun_agent.api.request import Request, Response

PUBLIC = frozenset(('/', '/v1'))
"""What is told without a token."""


@dataclasses.dataclass(frozen=True)
class Route:
    """One operation.

    :ivar handler: called with the request and the parts of the URL in angle brackets
    :ivar since: the first microversion that has it
    :ivar until: the last one
    :ivar needs_json: an empty body, too, must be said to be JSON
    """

    method: str
    path: str
    handler: typing.Callable[..., Response]
    since: Version = FIRST
    until: Version = LATEST
    needs_json: bool = False


def _since(minor: int) -> Version:
    return Version(1, minor)


ROUTES = (
    Route('GET', '/', root.root),
    Route('GET', '/v1', root.v1),
    # containers
    Route('GET', '/v1/containers', containers.index),
    Route('POST', '/v1/containers', containers.create, needs_json=True),
    Route('GET', '/v1/containers/<ident>', containers.show),
    Route('PATCH', '/v1/containers/<ident>', containers.update),
    Route('DELETE', '/v1/containers/<ident>', containers.delete),
    Route('POST', '/v1/containers/<ident>/rename', containers.rename, until=_since(13)),
    Route('POST', '/v1/containers/<ident>/resize_container', containers.resize, _since(19)),
    Route('GET', '/v1/containers/<ident>/network_list', containers.networks, _since(13)),
    # what they do
    Route('POST', '/v1/containers/<ident>/start', actions.start),
    Route('POST', '/v1/containers/<ident>/stop', actions.stop),
    Route('POST', '/v1/containers/<ident>/reboot', actions.reboot),
    Route('POST', '/v1/containers/<ident>/pause', actions.pause),
    Route('POST', '/v1/containers/<ident>/unpause', actions.unpause),
    Route('POST', '/v1/containers/<ident>/kill', actions.kill),
    # what their host tells
    Route('GET', '/v1/containers/<ident>/logs', live.logs),
    Route('POST', '/v1/containers/<ident>/execute', live.execute),
    Route('GET', '/v1/containers/<ident>/top', live.top),
    Route('GET', '/v1/containers/<ident>/stats', live.stats),
    # what was done to them
    Route('GET', '/v1/containers/<ident>/container_actions', container_actions.index),
    Route('GET', '/v1/containers/<ident>/container_actions/<request_id>', container_actions.show),
    # the service itself
    Route('GET', '/v1/services', services.index),
    Route('GET', '/v1/hosts', hosts.index, _since(4)),
    Route('GET', '/v1/hosts/<ident>', hosts.show, _since(4)),
    Route('GET', '/v1/availability_zones', availability_zones.index),
    Route('DELETE', '/v1/networks/<ident>', networks.delete, _since(27)),
    # Zun has these, this service has them not
    Route('GET', '/v1/containers/<ident>/attach', refuse),
    Route('POST', '/v1/containers/<ident>/resize', refuse),
    Route('POST', '/v1/containers/<ident>/execute_resize', refuse),
    Route('POST', '/v1/containers/<ident>/rebuild', refuse),
    Route('POST', '/v1/containers/<ident>/commit', refuse),
    Route('GET', '/v1/containers/<ident>/get_archive', refuse),
    Route('POST', '/v1/containers/<ident>/put_archive', refuse),
    Route('POST', '/v1/containers/<ident>/network_attach', refuse, _since(8)),
    Route('POST', '/v1/containers/<ident>/network_detach', refuse, _since(6)),
    Route('POST', '/v1/containers/<ident>/add_security_group', refuse, until=_since(14)),
    Route('POST', '/v1/containers/<ident>/remove_security_group', refuse, until=_since(14)),
    Route('DELETE', '/v1/services', refuse),
    Route('PUT', '/v1/services/<any(enable, disable, force_down):act>', refuse),
    Route('GET', '/v1/images', refuse),
    Route('POST', '/v1/images', refuse, needs_json=True),
    Route('GET', '/v1/images/<ident>', refuse),
    Route('DELETE', '/v1/images/<ident>', refuse),
    Route('GET', '/v1/images/<path:name>/search', refuse),
    Route('GET', '/v1/networks', refuse),
    Route('POST', '/v1/networks', refuse, needs_json=True),
    Route('GET', '/v1/capsules', refuse),
    Route('POST', '/v1/capsules', refuse, needs_json=True),
    Route('GET', '/v1/capsules/<ident>', refuse),
    Route('DELETE', '/v1/capsules/<ident>', refuse),
    Route('GET', '/v1/quotas/<project>', refuse),
    Route('PUT', '/v1/quotas/<project>', refuse),
    Route('DELETE', '/v1/quotas/<project>', refuse),
    Route('GET', '/v1/quotas/<project>/defaults', refuse),
    Route('GET', '/v1/quota_classes/<name>', refuse),
    Route('PUT', '/v1/quota_classes/<name>', refuse),
    Route('GET', '/v1/registries', refuse),
    Route('POST', '/v1/registries', refuse, needs_json=True),
    Route('GET', '/v1/registries/<ident>', refuse),
    Route('PATCH', '/v1/registries/<ident>', refuse),
    Route('DELETE', '/v1/registries/<ident>', refuse),
)

_MAP = routing.Map(
    [routing.Rule(route.path, methods=[route.method], endpoint=route) for route in ROUTES],
    strict_slashes=False,
    merge_slashes=False,
)


def normalised(path: str) -> str:
    """Return the path as the table above has it.

    Clients double slashes and end paths with one, and leave out ``/v1`` where the
    catalogue's URL does.
    """
    path = '/' + re.sub('/+', '/', path).strip('/')
    if path in ('/', '/healthcheck') or re.match(r'/v\d', path):
        return path
    return f'/v1{path}'


def dispatch(request: Request) -> Response:
    """Let the handler of its route answer the request.

    :raises werkzeug.exceptions.NotFound: there is no such URL
    :raises werkzeug.exceptions.MethodNotAllowed: it has no such method
    :raises NotAcceptable: not at the version asked for
    :raises UnsupportedMediaType: its body is not JSON
    """
    adapter = _MAP.bind('')
    route, arguments = adapter.match(request.path, request.method)
    request.rule = re.sub('<(?:[^:<>]*:)?([^<>]*)>', r'{\1}', route.path)
    if route.path == '/':
        return typing.cast('Response', route.handler(request))
    version = request.version
    if not route.since <= version <= route.until:
        raise errors.NotAcceptable(
            f'{request.method} {request.rule} is not served at version {version}, '
            f'but from {route.since} to {route.until}.'
        )
    if route.needs_json and request.mimetype != 'application/json':
        raise errors.UnsupportedMediaType(
            f'The body must be application/json, not {request.mimetype or "of no type"}.'
        )
    return typing.cast('Response', route.handler(request, **arguments))
