"""Docker's copies of containers: images of what they have written, and archives of those.

They take as long as there is to copy, for which the client has a time-out of its own.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator, Sequence

from oslo_log import log as logging

from zun_virt.host import Conflict, NotFound, translated

LOG = logging.getLogger(__name__)

TIMEOUT = 1800
"""Seconds that copying one container may take."""

_CHUNK = 1 << 20


class Copies:
    """Makes images of containers, and archives of images."""

    def __init__(self, client: typing.Any) -> None:
        """Use a client that `zun_virt.host.connect` returned, with `TIMEOUT`."""
        self._client = client

    def commit(self, container: str, name: str) -> None:
        """Make an image of a container, which is frozen meanwhile if it runs.

        :param name: of the image, with its tag
        """
        repository, _, tag = name.partition(':')
        with translated(f'Copying container {container}'):
            self._client.commit(container, repository=repository, tag=tag)

    def tag(self, image: str, name: str) -> None:
        """Give an image another name.

        :param image: its id or a name
        :param name: with its tag
        """
        repository, _, tag = name.partition(':')
        with translated(f'Naming image {image}'):
            self._client.tag(image, repository, tag)

    def save(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield an archive of images, in which each layer is once."""
        with translated(f'Saving the images {", ".join(names)}'):
            client = self._client
            response = client._get(
                client._url('/images/get'), params={'names': list(names)}, stream=True
            )
            with contextlib.closing(response):
                client._raise_for_status(response)
                yield from response.iter_content(_CHUNK)

    def labels(self, image: str) -> dict[str, str]:
        """Return the labels of an image.

        :raises zun_virt.host.NotFound: there is none of that name
        """
        with translated(f'Inspecting image {image}'):
            found: dict[str, str] | None = self._client.inspect_image(image)['Config']['Labels']
        return found or {}

    def remove(self, name: str) -> None:
        """Take a name from an image, and the image with its last; one in use stays."""
        try:
            with translated(f'Removing image {name}'):
                self._client.remove_image(name)
        except NotFound:
            pass
        except Conflict as error:
            LOG.info('%s', error)

    def close(self) -> None:
        """Close the connections to the engine."""
        self._client.close()
