"""Images of Docker Hub and other registries, by the names that ``docker pull`` takes."""

from __future__ import annotations

import re
import typing

from zun_agent import errors
from zun_virt import sandbox as contract

if typing.TYPE_CHECKING:
    from zun_agent.openstack import OpenStack
    from zun_agent.runtime import Runtime

RESERVED = 'zun.invalid'
"""Domain of what the agent itself names; no registry can have it."""

OF_THE_DRIVER = tuple(
    f'docker.io/library/{name}' for name in (contract.SANDBOX_IMAGES, contract.SNAPSHOT_IMAGES)
)
"""Under which the driver keeps images on this host: of other projects' private ones, too."""

_COMPONENT = r'[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*'
_DOMAIN = r'(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.?)+(?::\d+)?'
_PATH = re.compile(rf'{_COMPONENT}(?:/{_COMPONENT})*')
_TAG = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}')
_DIGEST = re.compile(r'sha256:[0-9a-f]{64}')


class DockerImages:
    """The image driver ``docker``."""

    def __init__(self, conf: typing.Any, runtime: Runtime, cloud: OpenStack) -> None:
        """Pull with `runtime`."""
        self._runtime = runtime

    def resolve(self, context: typing.Any, name: str) -> str | None:
        """Check the form of the name; whether a registry knows it is found out later."""
        parse(name)
        return None

    def reference(self, name: str, pinned: str | None) -> str:
        """Return the whole name, which Docker cannot take for the id of some other image."""
        repository, tag = parse(name)
        return f'{repository}@{tag}' if _DIGEST.fullmatch(tag) else f'{repository}:{tag}'

    def fetch(self, name: str, pinned: str | None) -> None:
        """Pull the image."""
        repository, tag = parse(name)
        try:
            self._runtime.pull(repository, tag)
        except errors.ServiceUnavailable as error:
            raise errors.DockerError(
                f'Image {name} could not be pulled: Docker did not get on with it.'
            ) from error
        except errors.AgentError as error:
            raise type(error)(f'Image {name} could not be pulled: {error}') from error


def parse(name: str) -> tuple[str, str]:
    """Return the full repository and the tag or digest that a name stands for.

    >>> parse('alpine')
    ('docker.io/library/alpine', 'latest')
    >>> parse('host:5000/team/app:1.2')
    ('host:5000/team/app', '1.2')

    :raises errors.Invalid: it is no name of an image
    """
    rest, _, digest = name.partition('@')
    path, colon, tag = rest.rpartition(':')
    if not colon or '/' in tag:  # the colon, if any, is before a port
        path, tag = rest, 'latest'
    domain, slash, remainder = path.partition('/')
    if not slash or not (set('.:') & set(domain) or domain == 'localhost'):
        domain, remainder = 'docker.io', path
    if domain in ('docker.io', 'index.docker.io'):
        domain = 'docker.io'
        remainder = remainder if '/' in remainder else f'library/{remainder}'
    if (
        not _PATH.fullmatch(remainder)
        or not re.fullmatch(_DOMAIN, domain)
        or not _TAG.fullmatch(tag)
        or ('@' in name and not _DIGEST.fullmatch(digest))
        or domain.lower() == RESERVED
        or f'{domain}/{remainder}' in OF_THE_DRIVER
    ):
        raise errors.Invalid(f'{name!r} is not the name of an image.')
    return f'{domain}/{remainder}', digest or tag
