"""Microversions: which there are, and which a request is served with."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable

from zun_agent import errors

if typing.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SERVICE_TYPE = 'container'
HEADER = 'OpenStack-API-Version'
ENVIRON_KEY = 'zun.api_version'


class Version(typing.NamedTuple):
    """A microversion; versions compare as their numbers do, 1.9 being before 1.10."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f'{self.major}.{self.minor}'

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read ``X.Y``.

        :raises ValueError: the text is no version
        """
        match = re.fullmatch(r'([1-9]\d{0,3})\.(0|[1-9]\d{0,3})', text)
        if match is None:
            raise ValueError(f'{text!r} is no version')
        return cls(int(match[1]), int(match[2]))


HISTORY = (
    '1.1',  # the first
    '1.2',  # create: nets
    '1.3',  # create: auto_remove
    '1.4',  # hosts
    '1.5',  # create: runtime
    '1.6',  # network_detach
    '1.7',  # a forced delete is for administrators
    '1.8',  # network_attach
    '1.9',  # create: hostname
    '1.10',  # delete does not wait
    '1.11',  # create: mounts
    '1.12',  # delete: stop
    '1.13',  # network_list
    '1.14',  # PATCH renames; rename is gone
    '1.15',  # add_security_group and remove_security_group are gone
    '1.16',  # capsules: restart policy
    '1.17',  # network_detach: by port
    '1.18',  # network_list: the addresses of a port are in one item
    '1.19',  # resize_container
    '1.20',  # create: command is a list
    '1.21',  # create: privileged
    '1.22',  # create: healthcheck
    '1.23',  # create: the type of a mount
    '1.24',  # create: exposed_ports
    '1.25',  # archives in base64
    '1.26',  # quotas
    '1.27',  # delete of a network
    '1.28',  # create: cpu_policy
    '1.29',  # hosts: enable_cpu_pinning
    '1.30',  # registries
    '1.31',  # create: registry
    '1.32',  # capsules: delete does not wait, another format
    '1.33',  # container_actions: finish_time
    '1.34',  # capsules: init containers
    '1.35',  # capsules: ports
    '1.36',  # create: tty apart from interactive
    '1.37',  # capsules: tty and stdin
    '1.38',  # capsules: annotations
    '1.39',  # create: host
    '1.40',  # create: entrypoint
)
"""Every microversion, with what came with it; a new one is appended, none is ever changed."""

FIRST = Version.parse(HISTORY[0])
LATEST = Version.parse(HISTORY[-1])


def negotiate(header: str | None) -> Version:
    """Return the version that a request with this header is served with.

    :param header: ``container X.Y`` or ``container latest``; None asks for the first
    :raises NotAcceptable: there is no such version, or it is of another service
    """
    if header is None or not header.strip():
        return FIRST
    service, _, wanted = header.strip().partition(' ')
    wanted = wanted.strip()
    if service.lower() != SERVICE_TYPE:
        raise errors.NotAcceptable(
            f'{HEADER} is {header!r}: it must be "{SERVICE_TYPE} X.Y" or "{SERVICE_TYPE} latest".'
        )
    if wanted == 'latest':
        return LATEST
    try:
        version = Version.parse(wanted)
    except ValueError as error:
        raise errors.NotAcceptable(f'{HEADER} is {header!r}: {error}.') from error
    if not FIRST <= version <= LATEST:
        raise errors.NotAcceptable(
            f'Version {version} is not served: it must be from {FIRST} to {LATEST}.'
        )
    return version


def is_versioned(path: str) -> bool:
    """Tell whether answers at this (normalised) path depend on the microversion."""
    return path == '/v1' or path.startswith('/v1/')


class Negotiation:
    """WSGI middleware: settles the version, and tells it in every answer below ``/v1``.

    A refusal is not raised here but left in the environment, for whoever is inside to
    render: a caller without a token learns 401 first.
    """

    def __init__(self, application: WSGIApplication) -> None:
        """Stand in front of `application`."""
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not is_versioned(environ['PATH_INFO']):
            return self._application(environ, start_response)
        headers = [
            ('OpenStack-API-Minimum-Version', f'{SERVICE_TYPE} {FIRST}'),
            ('OpenStack-API-Maximum-Version', f'{SERVICE_TYPE} {LATEST}'),
            ('Vary', HEADER),
        ]
        try:
            version = negotiate(environ.get('HTTP_OPENSTACK_API_VERSION'))
        except errors.NotAcceptable as error:
            environ[ENVIRON_KEY] = error
        else:
            environ[ENVIRON_KEY] = version
            headers.append((HEADER, f'{SERVICE_TYPE} {version}'))

        def start(
            status: str, others: list[tuple[str, str]], exc_info: typing.Any = None
        ) -> Callable[[bytes], object]:
            return start_response(status, [*others, *headers], exc_info)

        return self._application(environ, start)
