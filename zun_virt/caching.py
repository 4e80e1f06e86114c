"""Images from Glance that Docker keeps: fetched before they are needed, and not for ever."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import nova.conf
from nova import objects
from nova.image import glance
from oslo_log import log as logging

from zun_virt import host, image, sandbox, servers
from zun_virt.errors import in_novas_words
from zun_virt.host import Conflict, HostError, NotFound, translated

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class Shelf:
    """The images of Glance that Docker has, and when each was last seen in use.

    Docker does not tell when that was: the time of an empty file does, which outlives
    nova-compute.
    """

    def __init__(
        self, client: Any, directory: pathlib.Path, clock: Callable[[], float] = time.time
    ) -> None:
        """Use a client that `zun_virt.host.connect` returned, and a directory for the files."""
        self._client = client
        self._directory = directory
        self._clock = clock

    def age(self, used: set[str], seconds: float) -> None:
        """Remove the images that were not in use for so long.

        :param used: ids in Glance of images that are in use, which no image of Docker's shows
        :raises zun_virt.host.HostError: Docker cannot be asked
        """
        self._directory.mkdir(exist_ok=True)
        present = {tag.rpartition(':')[2]: tag for tag in self._tags()}
        for mark in self._directory.iterdir():
            if mark.name not in present:
                mark.unlink(missing_ok=True)
        for content, tag in present.items():
            mark = self._directory / content
            if content[:36] in used or not mark.exists():
                mark.touch()
            elif self._clock() - mark.stat().st_mtime >= seconds:
                self._remove(tag, mark)

    def _tags(self) -> list[str]:
        with translated('Listing images'):
            found = self._client.images(filters={'reference': f'{sandbox.SANDBOX_IMAGES}:*'})
        return [tag for entry in found for tag in entry['RepoTags'] or ()]

    def _remove(self, tag: str, mark: pathlib.Path) -> None:
        LOG.info('Removing image %s, which is not in use', tag)
        try:
            with contextlib.suppress(NotFound), translated(f'Removing image {tag}'):
                self._client.remove_image(tag)
        except Conflict:
            LOG.debug('Image %s is of a container, and stays', tag)
            mark.touch()
        else:
            mark.unlink(missing_ok=True)


class Caching:
    """The part of the driver that keeps images."""

    _host: host.Host
    _images: image.Images

    def _start_caching(self, client: Any, name: str) -> None:
        self._shelf = Shelf(client, pathlib.Path(CONF.zun_virt.state_path) / 'images')
        self._placed = servers.Servers(name)

    @in_novas_words
    def cache_image(self, context: Any, image_id: str) -> bool:
        """Fetch an image before a server needs it.

        :returns: whether it was not there yet
        :raises nova.exception.ImageUnacceptable: a sandbox cannot be made of it
        """
        described = objects.ImageMeta.from_dict(glance.API().get(context, image_id))
        tag = CONF.zun_virt.sandbox_image or image.image_tag(described)
        present = self._host.image_id(tag) is not None
        self._images.ensure(context, described, None)
        return not present

    def _age_images(self) -> None:
        """Remove images that no server here has used for as long as nova's option says."""
        options = CONF.image_cache
        if not options.remove_unused_base_images:
            return
        used = {server.image_ref for server in self._placed.here()}
        try:
            self._shelf.age(used, options.remove_unused_original_minimum_age_seconds)
        except HostError as error:
            LOG.warning('Images cannot be looked at: %s; the next pass will', error)
