"""What the Zun API has and this service has not, so that its users learn just that."""

from __future__ import annotations

import typing

from zun_agent import errors

if typing.TYPE_CHECKING:
    from zun_agent.api.request import Request, Response


def refuse(request: Request, **_: str) -> Response:
    """Answer any request to such a route.

    :raises NotSupported: always, naming the operation
    """
    raise errors.NotSupported(
        f'{request.method} {request.rule} is not supported by this service yet.'
    )
