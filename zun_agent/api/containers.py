"""Containers: create, list, show, change, delete."""

from __future__ import annotations

import typing

from zun_agent import errors, models
from zun_agent.api import paging, relay, spec, views
from zun_agent.api.request import Json, Request, Response, answer
from zun_agent.api.schemas import boolean, containers, count
from zun_agent.api.versions import Version

if typing.TYPE_CHECKING:
    from zun_agent.models import Container

FILTERS = frozenset(
    [
        'name',
        'image',
        'project_id',
        'user_id',
        'memory',
        'host',
        'task_state',
        'status',
        'auto_remove',
    ]
)
"""Zun's; their values are the manager's to read, as are the keys to sort by."""

_GUARDED = (
    ('privileged', 'container:create:privileged'),
    ('runtime', 'container:create:runtime'),
    ('host', 'container:create:requested_destination'),
)
"""Members of the create body that need a rule of their own."""

_TTY = Version(1, 36)
_STOP = Version(1, 12)
_FORCE_GUARDED = Version(1, 7)
_RENAME = Version(1, 14)
_GROUPED_NETWORKS = Version(1, 18)


def create(request: Request) -> Response:
    """``POST /containers``"""
    request.authorize('container:create')
    if not request.context.project_id:
        raise errors.Forbidden('The token is not scoped to a project.')
    containers.CREATE_QUERY.validate(request.query)
    body = request.body
    _check_version(request, body)
    containers.create(request.version).validate(body)
    for field, rule in _GUARDED:
        if _asks_for(body.get(field)):
            request.authorize(rule)
    _authorize_pull_policy(request, body.get('image_pull_policy'))
    wanted = spec.of_body(
        body,
        tty_apart=request.version >= _TTY,
        image_drivers=request.services.conf.container.image_drivers,
    )
    run = boolean(request.query.get('run'))
    made = request.services.manager.create(request.context, wanted, run=run)
    request.services.relay.nudge(request, made)
    response = answer(_view(request, made), 202)
    response.headers['Location'] = f'{request.base_url}/v1/containers/{made.uuid}'
    return response


def _asks_for(value: typing.Any) -> bool:
    return bool(value) and value not in ('False', 'false')


def _authorize_pull_policy(request: Request, asked: str | None) -> None:
    """Guard what an operator decides by a default of always or never.

    Zun's default is always: with that a tenant who cannot pull an image cannot use the
    copy that another's container left on the host, unless he may choose for himself.
    Where the default is ifnotpresent, no choice gives him more than he has.

    :raises PolicyNotAuthorized: the default stands, and he asks for another
    """
    default = request.services.conf.container.default_image_pull_policy
    if asked and default != 'ifnotpresent' and asked != default:
        request.authorize('container:create:image_pull_policy')


def _check_version(request: Request, body: typing.Any) -> None:
    """Refuse members that came with a later microversion, where they ask for something.

    The ``zun`` command writes ``"auto_remove": false`` at any version.

    :raises InvalidParamInVersion: naming the member and its version
    """
    if not isinstance(body, dict):
        return  # the schema says what is wrong
    for field, since in containers.FIELDS_SINCE.items():
        if request.version < since and _asks_for(body.get(field)):
            raise errors.InvalidParamInVersion(
                f"Field '{field}' needs microversion {since} or later; "
                f'the request was made with {request.version}.'
            )


def index(request: Request) -> Response:
    """``GET /containers``"""
    request.authorize('container:get_all')
    query = request.query
    filters = _filters(request, query)
    containers.LIST.validate(query)
    all_projects = _all_projects(request, 'container:get_all_all_projects')
    page = paging.page(request)
    found = request.services.manager.list(
        request.context,
        filters=filters,
        limit=page.limit,
        marker=page.marker,
        sort_key=page.sort_key,
        sort_dir=page.sort_dir,
        all_projects=all_projects,
    )
    shown, base_url, now = _shown(request), request.base_url, models.now()
    return answer(
        {
            'containers': [views.container(each, base_url, shown, now) for each in found],
            'next': paging.next_link(request, 'containers', page, [each.uuid for each in found]),
        }
    )


def _filters(request: Request, query: dict[str, str]) -> Json:
    """Return what the listing is limited to.

    :raises Invalid: the query has what is no filter
    :raises PolicyNotAuthorized: it is one that the user may not use
    """
    unknown = sorted(set(query) - FILTERS - paging.KEYS - {'all_projects'})
    if unknown:
        raise errors.Invalid(f'Unknown parameters: {", ".join(unknown)}')
    if query.get('host'):
        request.authorize('container:get_all:host')
    return {key: query[key] for key in FILTERS if query.get(key)}


def _all_projects(request: Request, rule: str) -> bool:
    """Tell whether the query asks for more than the user's own project.

    :raises PolicyNotAuthorized: it does, and `rule` says no
    """
    wanted = boolean(request.query.get('all_projects'))
    if wanted:
        request.authorize(rule)
    return wanted


def show(request: Request, ident: str) -> Response:
    """``GET /containers/{ident}``"""
    containers.SHOW.validate(request.query)
    all_projects = _all_projects(request, 'container:get_one_all_projects')
    found = request.container(ident, 'container:get_one', all_projects=all_projects)
    if relay.is_relayed(request.environ):
        request.services.manager.wake(found)
    return answer(_view(request, found))


def update(request: Request, ident: str) -> Response:
    """``PATCH /containers/{ident}``"""
    found = request.container(ident, 'container:update')
    body = request.body
    containers.UPDATE.validate(body)
    if 'name' in body and request.version < _RENAME:
        raise errors.InvalidParamInVersion(
            f"Field 'name' needs microversion {_RENAME} or later; "
            f'the request was made with {request.version}.'
        )
    return _change(request, found, spec.changes(body), 200)


def resize(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/resize_container``"""
    found = request.container(ident, 'container:resize_container')
    parameters = request.parameters
    containers.RESIZE.validate(parameters)
    return _change(request, found, spec.changes(parameters), 202)


def rename(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/rename``"""
    found = request.container(ident, 'container:rename')
    parameters = request.parameters
    containers.RENAME.validate(parameters)
    return _change(request, found, {'name': parameters['name']}, 200)


def _change(request: Request, found: Container, changes: Json, status: int) -> Response:
    relayed = request.services.relay.change(request, found)
    if relayed is not None:
        return relayed
    changed = request.services.manager.update(request.context, found, changes)
    return answer(_view(request, changed), status)


def delete(request: Request, ident: str) -> Response:
    """``DELETE /containers/{ident}``"""
    query = request.query
    containers.DELETE.validate(query)
    force, stop = boolean(query.get('force')), boolean(query.get('stop'))
    if stop and request.version < _STOP:
        raise errors.InvalidParamInVersion(
            f"Parameter 'stop' needs microversion {_STOP} or later; "
            f'the request was made with {request.version}.'
        )
    all_projects = _all_projects(request, 'container:delete_all_projects')
    found = request.container(ident, 'container:delete', all_projects=all_projects)
    if force and request.version >= _FORCE_GUARDED:
        request.authorize('container:delete_force', found)
    relayed = request.services.relay.change(request, found)
    if relayed is not None:
        return relayed
    request.services.manager.delete(
        request.context, found, force=force, stop=stop, timeout=count(query.get('timeout'))
    )
    return Response(status=204)


def networks(request: Request, ident: str) -> Response:
    """``GET /containers/{ident}/network_list``"""
    found = request.container(ident, 'container:network_list')
    grouped = request.version >= _GROUPED_NETWORKS
    return answer({'networks': views.networks(found.addresses or {}, grouped=grouped)})


def _shown(request: Request) -> frozenset[str]:
    """Return the guarded members of a container that the user may see."""
    return frozenset(
        field for field in views.ADMIN_FIELDS if request.allows(f'container:get_one:{field}')
    )


def _view(request: Request, container: Container) -> Json:
    return views.container(container, request.base_url, _shown(request))
