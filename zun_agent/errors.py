"""Every error a user can be told of, with its HTTP status.

The API renders an `AgentError` as the error body of the Zun v1 API; anything else that
reaches it is a bug, and a 500.  ``code`` is derived from the class name, as Zun does,
so a class that clients may know is never renamed.
"""

from __future__ import annotations

import re


class AgentError(Exception):
    """Base of what the API tells its user; the message is for that user.

    :cvar status: of the HTTP response
    """

    status = 500

    @property
    def code(self) -> str:
        """The error's code in the body, such as ``container.container-not-found``."""
        kebab = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '-', type(self).__name__).lower()
        return f'container.{kebab}'


class Invalid(AgentError):
    """The request asks for what cannot be."""

    status = 400


class SchemaValidationError(Invalid):
    """The body or the query does not fit its schema."""


class InvalidParamInVersion(Invalid):
    """The request uses what came with a later microversion."""


class ImageNotFound(Invalid):
    """No registry or Glance knows the image, or the user may not use it. Zun says 400."""


class PortInUse(Invalid):
    """The port that is asked for belongs to something already."""


class SecurityGroupNotFound(Invalid):
    """The user has no security group of that id or name. Zun says 400."""


class SandboxNotUsable(Invalid):
    """The server named as sandbox is none: a virtual machine, say."""


class NoSandboxFlavor(Invalid):
    """No flavor for sandboxes that the user may use holds what is asked."""


class LimitExceedsSandbox(Invalid):
    """A container asks for more than its whole sandbox has."""


class Forbidden(AgentError):
    """The user may not do this."""

    status = 403


class PolicyNotAuthorized(Forbidden):
    """A policy rule says no."""


class OverQuota(Forbidden):
    """Nova, Neutron or Cinder says that the project's quota is used up."""


class NotFound(AgentError):
    """What the request names does not exist, or not for this user."""

    status = 404


class ContainerNotFound(NotFound):
    """No container of the user's has that id or name."""


class SandboxNotFound(NotFound):
    """No server of the user's has that id or name."""


class NetworkNotFound(NotFound):
    """No network that the user may see has that id or name."""


class PortNotFound(NotFound):
    """No port of the user's has that id or name."""


class ActionNotFound(NotFound):
    """The container has no action with that request id."""


class ComputeNodeNotFound(NotFound):
    """No host has that id or name."""


class NotAcceptable(AgentError):
    """The API version asked for is none that is served."""

    status = 406


class Conflict(AgentError):
    """The state of things forbids it now."""

    status = 409


class InvalidStateException(Conflict):
    """The container's status does not allow the action."""


class LimitsRefused(Conflict):
    """Docker did not take the limits that are asked for: more memory is in use, say."""


class ContainerNameNotUnique(Conflict):
    """Several containers have that name; an id is needed."""


class SandboxConflict(Conflict):
    """The sandbox is stopped, locked, being deleted, ambiguous, or used by others."""


class SandboxImageMissing(Conflict):
    """The cloud has no image of which sandboxes are made; the operator must see to it."""


class NetworkConflict(Conflict):
    """Nova or Neutron cannot tell or give the network asked for."""


class RequestTooLarge(AgentError):
    """The body is larger than the API takes."""

    status = 413


class UnsupportedMediaType(AgentError):
    """The body is not JSON."""

    status = 415


class NotSupported(AgentError):
    """The Zun API knows the operation, this service does not offer it."""

    status = 501


class ServiceUnavailable(AgentError):
    """A service that the request needs does not answer; it may be tried again."""

    status = 503


class ContainerHostNotUp(ServiceUnavailable):
    """The host of the container does not answer."""


class DockerError(AgentError):
    """Docker failed in a way that the user cannot have caused."""


class NovaError(AgentError):
    """Nova failed in a way that the user cannot have caused."""
