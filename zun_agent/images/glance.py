"""Images of Glance: archives that ``docker save`` wrote, of container format ``docker``."""

from __future__ import annotations

import contextlib
import tempfile
import typing
import urllib.parse

from oslo_log import log as logging

from zun_agent import errors
from zun_agent.images import archive
from zun_agent.images.docker import RESERVED

if typing.TYPE_CHECKING:
    from zun_agent.openstack import Json, OpenStack
    from zun_agent.runtime import Runtime

LOG = logging.getLogger(__name__)

TAG = 'glance'


class GlanceImages:
    """The image driver ``glance``."""

    def __init__(self, conf: typing.Any, runtime: Runtime, cloud: OpenStack) -> None:
        """Load into `runtime` what Glance has."""
        self._limit: int = conf.container.max_glance_image_size << 20
        self._runtime = runtime
        self._cloud = cloud

    def resolve(self, context: typing.Any, name: str) -> str | None:
        """Return the id of the image of that id or name which the user may use.

        What Glance has under an id never changes; whether the user may see it is asked
        here, by the user's own token.
        """
        glance = self._cloud.as_user(context, 'image')
        found: list[Json] = []
        try:
            found = [glance.get(f'/images/{_quoted(name)}')]
        except (errors.NotFound, errors.Invalid):
            query = {'name': name, 'status': 'active', 'sort': 'created_at:desc'}
            found = glance.get('/images', query)['images']
        usable = [image for image in found if image['status'] == 'active']
        if not usable:
            raise errors.ImageNotFound(f'Image {name} could not be found in Glance.')
        archives = [image for image in usable if image['container_format'] == 'docker']
        if not archives:
            raise errors.Invalid(
                f'Image {name} is not for containers: its container format is '
                f'{usable[0]["container_format"]}, not docker.'
            )
        return str(archives[0]['id'])

    def reference(self, name: str, pinned: str | None) -> str:
        """Return the name under which the archive was loaded, in a domain of our own."""
        return f'{RESERVED}/{pinned or name}:{TAG}'

    def fetch(self, name: str, pinned: str | None) -> None:
        """Load the archive from Glance, unless it is there: it cannot have changed."""
        reference = self.reference(name, pinned)
        if self._runtime.image_id(reference) is not None:
            return
        with tempfile.TemporaryFile(prefix='zun-image-') as saved:
            try:
                self._download(f'/images/{_quoted(pinned or name)}/file', saved)
                self._runtime.load(archive.renamed(saved, reference, self._limit))
            except (errors.NotFound, errors.Forbidden) as error:
                raise errors.ImageNotFound(f'Image {name} is no longer in Glance.') from error
            except errors.Invalid as error:
                raise errors.Invalid(f'Image {name} cannot be used: {error}') from error
        if self._runtime.image_id(reference) is None:
            raise errors.Invalid(f'Image {name} cannot be used: it is not for this host.')
        LOG.info('image %s of Glance loaded as %s', name, reference)

    def _download(self, path: str, target: typing.IO[bytes]) -> None:
        """Write what Glance has there to a file, unless it would fill the host's disk."""
        received = 0
        with contextlib.closing(self._cloud.as_service('image').download(path)) as chunks:
            for chunk in chunks:
                received += len(chunk)
                if received > self._limit:
                    raise errors.Invalid(f'it is larger than {self._limit >> 20} MiB')
                target.write(chunk)
        target.seek(0)


def _quoted(name: str) -> str:
    """Return a name, which is the user's, as one step of a path and no more.

    :raises errors.NotFound: it would be another step than one to an image
    """
    if name in ('.', '..'):  # what no quoting keeps from being resolved
        raise errors.NotFound(f'No image has the id {name}.')
    return urllib.parse.quote(name, safe='')
