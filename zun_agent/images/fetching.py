"""Fetching images beside the reconciler's work, each one once for all who wait for it."""

from __future__ import annotations

import concurrent.futures
import threading
import typing
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import errors
from zun_agent.images import Images
from zun_agent.models import Container

if typing.TYPE_CHECKING:
    from zun_agent.runtime import Runtime

LOG = logging.getLogger(__name__)


class Fetcher:
    """A few threads that fetch images, so that slow ones hold up nobody else."""

    def __init__(
        self, images: Images, runtime: Runtime, wake: Callable[[str], None], parallel: int = 3
    ) -> None:
        """Call `wake` with a container's uuid when its image came, or will not come."""
        self._images = images
        self._runtime = runtime
        self._wake = wake
        self._pool = concurrent.futures.ThreadPoolExecutor(parallel, thread_name_prefix='fetch')
        self._lock = threading.Lock()
        self._waiting: dict[str, set[str]] = {}
        self._outcome: dict[str, errors.AgentError | None] = {}

    def reference(self, container: Container) -> str:
        """Return the name by which Docker has, or shall have, the container's image.

        :raises errors.Invalid: it is no name of an image
        """
        driver = self._images.driver(container.image_driver)
        return driver.reference(container.image, container.image_ref)

    def prepare(self, container: Container) -> None:
        """Begin to fetch the image, if need be, before the container can be made."""
        if not self._known(container.uuid) and container.image_pull_policy != 'never':
            reference = self.reference(container)
            if container.image_pull_policy == 'always' or self._runtime.image_id(reference) is None:
                self._submit(container, reference)

    def ready(self, container: Container, *, missing: bool = False) -> bool:
        """Tell whether the container can be made; else it is woken when that is known.

        :param missing: Docker said that it has not got the image
        :raises errors.AgentError: the image is not to be had; asked again, it is fetched again
        """
        uuid = container.uuid
        with self._lock:
            if any(uuid in waiting for waiting in self._waiting.values()):
                return False
            fetched = uuid in self._outcome
            error = self._outcome.get(uuid)
            if error is not None or missing:
                self._outcome.pop(uuid, None)
        if error is not None:
            raise error
        if not missing and (fetched or container.image_pull_policy != 'always'):
            return True
        if container.image_pull_policy == 'never':
            raise errors.ImageNotFound(
                f'Image {container.image} is not on this host, and its pull policy is never.'
            )
        if missing and fetched:
            raise errors.DockerError(f'Image {container.image} was fetched, and is not there.')
        self._submit(container, self.reference(container))
        return False

    def forget(self, uuid: str) -> None:
        """Forget what was fetched for a container: it is made, or gone."""
        with self._lock:
            self._outcome.pop(uuid, None)

    def stop(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _known(self, uuid: str) -> bool:
        with self._lock:
            return uuid in self._outcome or any(
                uuid in waiting for waiting in self._waiting.values()
            )

    def _submit(self, container: Container, reference: str) -> None:
        with self._lock:
            waiting = self._waiting.get(reference)
            if waiting is not None:
                waiting.add(container.uuid)
                return
            self._waiting[reference] = {container.uuid}
        try:
            self._pool.submit(self._fetch, container, reference)
        except RuntimeError:  # the agent stops; the next one fetches it
            LOG.debug('image %s is not fetched any more', container.image)

    def _fetch(self, container: Container, reference: str) -> None:
        LOG.info('image %s: fetching it for container %s', container.image, container.uuid)
        error: errors.AgentError | None = None
        try:
            driver = self._images.driver(container.image_driver)
            driver.fetch(container.image, container.image_ref)
            LOG.info('image %s: it is there', container.image)
        except errors.AgentError as failure:
            LOG.info('image %s is not to be had: %s', container.image, failure)
            error = failure
        except Exception:
            LOG.exception('image %s: fetching it failed', container.image)
            error = errors.DockerError(f'Image {container.image} could not be fetched.')
            raise
        finally:
            with self._lock:
                woken = self._waiting.pop(reference)
                self._outcome.update(dict.fromkeys(woken, error))
            for uuid in woken:
                self._wake(uuid)
