"""What Docker tells of containers as it happens: the stream of its events."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import typing
from collections.abc import Iterator

import requests.exceptions
import urllib3.exceptions
from oslo_log import log as logging

from zun_virt import sandbox as contract

LOG = logging.getLogger(__name__)

EVENTS = ('start', 'die', 'pause', 'unpause', 'destroy')
"""What happens to a container in Docker and may change its status."""

TRANSPORT_ERRORS = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""What the way to Docker raises when the engine goes away, or says nothing for too long."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened to one of our containers.

    :ivar time_ns: nanoseconds since the epoch, on this host's clock
    """

    action: str
    docker_id: str
    role: str
    sandbox_id: str
    container_uuid: str | None
    time_ns: int


class EventStream:
    """A subscription to Docker's events; iterating ends when Docker ends it."""

    def __init__(self, response: typing.Any, lines: Iterator[dict[str, typing.Any]]) -> None:
        self._response = response
        self._lines = lines

    def __iter__(self) -> Iterator[Event]:
        """Yield events until the stream ends, for whatever reason."""
        try:
            for line in self._lines:
                yield _event(line)
        except (*TRANSPORT_ERRORS, ValueError, AttributeError) as error:
            # The last two: the connection was closed under the reader, by `close`.
            LOG.debug("Docker's events ended: %s", error)
        finally:
            self._response.close()

    def close(self) -> None:
        """End the subscription, from any thread."""
        with contextlib.suppress(OSError, AttributeError):
            self._response.raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)


def _event(line: dict[str, typing.Any]) -> Event:
    attributes = line['Actor']['Attributes']
    return Event(
        action=line['Action'],
        docker_id=line['Actor']['ID'],
        role=attributes.get(contract.LABEL_ROLE, ''),
        sandbox_id=attributes[contract.LABEL_SANDBOX],
        container_uuid=attributes.get(contract.LABEL_CONTAINER),
        time_ns=line['timeNano'],
    )
