"""The image that a sandbox runs: from Glance, or as configured."""

from __future__ import annotations

import collections
import pathlib
import tempfile
import threading
import typing

from nova import exception
from oslo_log import log as logging

from zun_virt import archive, host, sandbox, snapshot
from zun_virt.steps import Steps

LOG = logging.getLogger(__name__)

_UNKNOWN = 'unknown'
_SNAPSHOT_OF = 'zun_snapshot_of'

_ARCHITECTURES = {
    'x86_64': 'amd64',
    'aarch64': 'arm64',
    'armv7l': 'arm',
    'i686': '386',
}
"""Names of architectures: the kernel's, and those of images where they differ."""


class Images:
    """Finds a sandbox's image in Docker, and brings it there once."""

    def __init__(
        self,
        docker: host.Host,
        glance: typing.Any,
        *,
        scratch: pathlib.Path,
        architecture: str,
        configured: str | None,
        largest: int = archive.MAX_ARCHIVE,
    ) -> None:
        """Take images from `glance`, nova's image API, unless one is configured.

        :param scratch: an existing directory for files that nobody else shall read
        :param architecture: of the machine, as its kernel names it
        :param configured: the name in Docker of the image for every sandbox
        :param largest: bytes of a snapshot that is unpacked
        """
        self._docker = docker
        self._glance = glance
        self._scratch = scratch
        self._architecture = _ARCHITECTURES.get(architecture, architecture)
        self._configured = configured
        self._largest = largest
        self._locks: collections.defaultdict[str, threading.Lock] = collections.defaultdict(
            threading.Lock
        )
        self._guard = threading.Lock()

    def prepare(self) -> None:
        """Have the configured image at hand.

        :raises zun_virt.host.HostError: it cannot be pulled
        """
        if self._configured:
            self._once(self._configured, lambda: self._pull(str(self._configured)))

    def ensure(
        self,
        context: typing.Any,
        image_meta: typing.Any,
        trusted_certs: typing.Any,
        *,
        fresh: bool = True,
    ) -> str:
        """Return Docker's id of the image for a server, having fetched it if need be.

        :param image_meta: nova's description of the server's image
        :param fresh: whether the server is new, which takes no containers from a snapshot
        :raises nova.exception.ImageUnacceptable: a sandbox cannot be made of it
        :raises zun_virt.host.HostError: Docker cannot
        """
        check(image_meta)
        if self._configured and (fresh or not self._is_snapshot(context, image_meta)):
            name = self._configured
            return self._once(name, lambda: self._pull(name))
        tag = image_tag(image_meta)
        if tag.endswith(_UNKNOWN):
            # Of a server that exists, nova does not keep the checksum of its image.
            found = self._docker.image_like(f'{sandbox.SANDBOX_IMAGES}:{image_meta.id}-*')
            if found:
                return found
        return self._once(tag, lambda: self._fetch(context, image_meta, trusted_certs, tag))

    def again(self, context: typing.Any, image_meta: typing.Any, trusted_certs: typing.Any) -> str:
        """Fetch an image anew, of which Docker has lost a part; see `ensure`."""
        return self._fetch(context, image_meta, trusted_certs, image_tag(image_meta))

    def upload(
        self,
        context: typing.Any,
        image_id: str,
        instance_id: str,
        stream: typing.Iterator[bytes],
    ) -> None:
        """Put a snapshot of a server into Glance, where nova has made room for it."""
        description = {
            'container_format': 'docker',
            'disk_format': 'raw',
            'properties': {'img_hv_type': 'docker', _SNAPSHOT_OF: instance_id},
        }
        data = snapshot.Readable(stream)
        self._glance.update(context, image_id, description, data=data, purge_props=False)

    def _is_snapshot(self, context: typing.Any, image_meta: typing.Any) -> bool:
        return _SNAPSHOT_OF in self._glance.get(context, image_meta.id).get('properties', {})

    def _once(self, name: str, fetch: typing.Callable[[], str]) -> str:
        """Return the id of an image, fetched by one of the threads that want it."""
        found = self._docker.image_id(name)
        if found:
            return found
        with self._guard:
            lock = self._locks[name]
        with lock:
            return self._docker.image_id(name) or fetch()

    def _pull(self, name: str) -> str:
        steps = Steps()
        found = self._docker.pull(name)
        steps.done('pull')
        LOG.debug('Image %s: fetched in %s', name, steps)
        return found

    def _fetch(
        self, context: typing.Any, image_meta: typing.Any, trusted_certs: typing.Any, tag: str
    ) -> str:
        LOG.info('Fetching image %s from Glance into %s', image_meta.id, tag)
        steps = Steps()
        with tempfile.TemporaryDirectory(prefix='zun-image-', dir=self._scratch) as directory:
            received = pathlib.Path(directory, 'received')
            rewritten = pathlib.Path(directory, 'rewritten')
            self._glance.download(
                context, image_meta.id, dest_path=str(received), trusted_certs=trusted_certs
            )
            steps.done('download')
            try:
                archive.rewrite(
                    received,
                    rewritten,
                    tag=tag,
                    architecture=self._architecture,
                    largest=self._largest,
                )
                steps.done('check')
                with rewritten.open('rb') as stream:
                    found = self._docker.load(stream, tag)
                steps.done('load')
            except (snapshot.ArchiveError, host.ImageRefused) as error:
                raise exception.ImageUnacceptable(
                    image_id=image_meta.id, reason=str(error)
                ) from error
        LOG.debug('Image %s: fetched in %s', image_meta.id, steps)
        return found


def check(image_meta: typing.Any) -> None:
    """Refuse an image that is not meant for sandboxes.

    :raises nova.exception.ImageUnacceptable: it is not
    """

    def refuse(reason: str) -> typing.NoReturn:
        known = image_meta.obj_attr_is_set('id') and image_meta.id
        raise exception.ImageUnacceptable(image_id=known or '(none)', reason=reason)

    if image_meta.properties.get('img_hv_type') != 'docker':
        refuse('this host runs sandboxes, for images with the property img_hv_type=docker')
    if not image_meta.obj_attr_is_set('id') or not image_meta.id:
        refuse('a sandbox is made from an image')
    form = image_meta.container_format if image_meta.obj_attr_is_set('container_format') else None
    if form != 'docker':
        refuse(f'its container_format is {form}, not docker')


def image_tag(image_meta: typing.Any) -> str:
    """Return the name in Docker for an image of Glance: its id, and that of its content."""
    content = image_meta.checksum if image_meta.obj_attr_is_set('checksum') else None
    return f'{sandbox.SANDBOX_IMAGES}:{image_meta.id}-{content or _UNKNOWN}'
