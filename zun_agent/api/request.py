"""A request as the handlers get it, and the answers they give."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing

import webob.exc
from werkzeug import wrappers

from zun_agent import errors
from zun_agent.api import context, relay, versions

if typing.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from oslo_config import cfg

    from zun_agent.api import policies
    from zun_agent.api.commands import Commands
    from zun_agent.manager import Manager
    from zun_agent.models import Container

Response = wrappers.Response
Json = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True)
class Services:
    """What handlers work with; one for the whole application.

    :ivar commands: the places for users' commands
    """

    conf: cfg.ConfigOpts
    manager: Manager
    policy: policies.Policy
    relay: relay.Relay
    commands: Commands


class Request(wrappers.Request):
    """An authenticated request.

    :ivar services: the application's
    :ivar rule: the route's path, as documentation writes it
    """

    def __init__(self, environ: WSGIEnvironment, services: Services) -> None:
        super().__init__(environ)
        self.services = services
        self.rule = ''

    @functools.cached_property
    def context(self) -> context.Context:
        """Who asks."""
        made = context.from_environ(self.environ)
        if relay.is_relayed(self.environ) and made.global_request_id:
            # The record of what was done is found by the id that the client was told.
            made.request_id = made.global_request_id
        made.is_admin = self.services.policy.allows(made, 'context_is_admin', {})
        return made

    @property
    def request_id(self) -> str:
        """The id under which this request is logged and answered."""
        return typing.cast(str, self.environ.get('openstack.request_id', ''))

    @property
    def version(self) -> versions.Version:
        """The microversion in use.

        :raises NotAcceptable: the client asked for one that there is not
        """
        version = self.environ[versions.ENVIRON_KEY]
        if isinstance(version, errors.NotAcceptable):
            raise version
        return typing.cast(versions.Version, version)

    @property
    def base_url(self) -> str:
        """The URL of the service as the client sees it, without a slash at its end.

        An agent to which the request was relayed makes links to the one that was asked.
        """
        return relay.original_url(self.environ) or self.root_url.rstrip('/')

    @functools.cached_property
    def body(self) -> typing.Any:
        """The JSON of the body; an empty object where there is none.

        :raises UnsupportedMediaType: there is a body that is not said to be JSON
        :raises Invalid: it is not JSON all the same
        :raises RequestTooLarge: it is larger than oslo.middleware's limit
        """
        try:
            data = self.get_data()
        except webob.exc.HTTPRequestEntityTooLarge as error:
            # a body of unannounced length, found out by the middleware while it is read
            raise errors.RequestTooLarge(str(error)) from error
        if not data.strip():
            return {}
        if self.mimetype != 'application/json':
            raise errors.UnsupportedMediaType(
                f'The body must be application/json, not {self.mimetype or "of no type"}.'
            )
        try:
            return _json(data)
        except (ValueError, RecursionError) as error:
            raise errors.Invalid(f'The body is not valid JSON: {error}') from error

    @functools.cached_property
    def query(self) -> dict[str, str]:
        """The query's values; clients write ``None`` for those they do not set."""
        return {key: value for key, value in self.args.items() if value != 'None'}

    @property
    def parameters(self) -> Json:
        """The query and the body's members as one: clients use either for actions.

        :raises Invalid: the body is no object
        """
        body = {} if self.method in ('GET', 'HEAD', 'DELETE') else self.body
        if body is None:
            body = {}
        if not isinstance(body, dict):
            raise errors.Invalid('The body must be a JSON object.')
        return {**body, **self.query}

    def authorize(self, rule: str, container: Container | None = None) -> None:
        """Ask the policy.

        :raises PolicyNotAuthorized: it says no
        """
        target = None
        if container is not None:
            target = {'project_id': container.project_id, 'user_id': container.user_id}
        self.services.policy.authorize(self.context, rule, target)

    def allows(self, rule: str) -> bool:
        """Tell what the policy says about `rule` and an object of the user's project."""
        return self.services.policy.allows(self.context, rule)

    def container(self, ident: str, rule: str, *, all_projects: bool = False) -> Container:
        """Return the container that the URL names, if the user may do to it what `rule` says.

        Administrators find their own project's by name first, then any project's.

        :raises ContainerNotFound: the user has none of that id or name
        :raises ContainerNameNotUnique: several have that name
        :raises PolicyNotAuthorized: the rule says no
        """
        manager = self.services.manager
        try:
            found: Container = manager.get(self.context, ident, all_projects=all_projects)
        except errors.ContainerNotFound:
            if all_projects or not self.context.is_admin:
                raise
            found = manager.get(self.context, ident, all_projects=True)
        self.authorize(rule, found)
        return found


def _json(data: bytes) -> typing.Any:
    """Read JSON more strictly than Python: without NaN, and without half characters.

    Neither could be stored or shown.

    :raises ValueError: it is not JSON; UnicodeError is one, too
    :raises RecursionError: it is nested too deeply
    """

    def refuse(constant: str) -> typing.NoReturn:
        raise ValueError(f'{constant} is no number')

    content = json.loads(data, parse_constant=refuse)
    if b'\\u' in data:
        json.dumps(content, ensure_ascii=False).encode()
    return content


def answer(content: typing.Any, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(json.dumps(content), status=status, content_type='application/json')


def accepted() -> Response:
    """Return Zun's answer to an action that is stored and will be carried out."""
    return answer(None, 202)
