"""Who asks: what the token says, as every layer below takes it."""

from __future__ import annotations

import json
import typing

from oslo_context import context

if typing.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Context(context.RequestContext):
    """The user, the project and the roles of one request.

    :ivar is_admin: what the policy rule ``context_is_admin`` says
    :ivar service_catalog: of the token
    """

    def __init__(
        self, *, service_catalog: list[dict[str, typing.Any]] | None = None, **kwargs: typing.Any
    ) -> None:
        super().__init__(**kwargs)
        self.service_catalog = service_catalog or []

    def credentials(self) -> dict[str, typing.Any]:
        """Return what policy rules can speak of."""
        return {
            'user_id': self.user_id,
            'project_id': self.project_id,
            'user_domain_id': self.user_domain_id,
            'project_domain_id': self.project_domain_id,
            'domain_id': self.domain_id,
            'system_scope': self.system_scope,
            'roles': self.roles,
            'is_admin': self.is_admin,
            'is_admin_project': self.is_admin_project,
        }


def from_environ(environ: WSGIEnvironment) -> Context:
    """Make the context from what keystonemiddleware left in the environment."""
    catalog = environ.get('HTTP_X_SERVICE_CATALOG')
    return typing.cast(
        Context,
        Context.from_environ(
            environ, service_catalog=json.loads(catalog) if catalog else None, is_admin=False
        ),
    )
