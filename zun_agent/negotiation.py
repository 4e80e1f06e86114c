"""The version of Docker's API, where the engine is replaced by one that does not know it."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable

import requests
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

_REFUSED = re.compile(r'client version ([0-9.]+) is too (?:new|old)')


class Negotiating(requests.Session):
    """What Docker's client is made of, for an engine that may become an older or a newer one.

    Docker's own asks the engine once which version it speaks. Of a refusal for that, which is
    no fault of what was asked for, the agent would make a failed container.
    """

    _version: str
    _retrieve_server_version: Callable[[], str]

    def send(self, request: requests.PreparedRequest, **settings: typing.Any) -> requests.Response:
        """Send a request, and again in the engine's version where it refuses that of before."""
        answer: requests.Response = super().send(request, **settings)
        refused = answer.status_code == requests.codes.bad_request and _REFUSED.search(answer.text)
        # It could be a user's words, as the name of a program that there is not.
        if not refused or not request.path_url.startswith(f'/v{refused[1]}/'):
            return answer
        self._version = self._retrieve_server_version()
        if self._version == refused[1] or not isinstance(request.body, str | bytes | None):
            return answer  # what was sent piece by piece has gone
        LOG.info('Docker says: %s; going on in version %s', refused[0], self._version)
        url = str(request.url)
        request.url = url.replace(f'/v{refused[1]}/', f'/v{self._version}/', 1)
        return self.send(request, **settings)
