"""Zun's Docker networks, of which there is none: Nova gives sandboxes Neutron's ports."""

from __future__ import annotations

from zun_agent import errors
from zun_agent.api.request import Request, Response


def delete(request: Request, ident: str) -> Response:
    """``DELETE /networks/{ident}``, by which clients clean up what Zun leaves behind."""
    request.authorize('network:delete')
    raise errors.NetworkNotFound(f'There is no Docker network for network {ident}.')
