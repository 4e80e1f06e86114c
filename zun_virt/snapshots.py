"""Snapshots of sandboxes, taken by nova to make images and to shelve servers."""

from __future__ import annotations

import contextlib
from typing import Any

from nova import exception
from nova.compute import task_states
from oslo_log import log as logging

from zun_virt import copies, host, sandbox, snapshot
from zun_virt.building import Building
from zun_virt.errors import in_novas_words
from zun_virt.steps import Steps

LOG = logging.getLogger(__name__)


class Snapshots(Building):
    """Takes snapshots."""

    _copies: copies.Copies

    @in_novas_words
    def snapshot(self, context: Any, instance: Any, image_id: str, update_task_state: Any) -> None:
        """Put into Glance what a sandbox's containers have written, and its own image.

        :raises nova.exception.InstanceNotRunning: there is no such sandbox
        """
        steps = Steps()
        repository = f'{sandbox.SNAPSHOT_IMAGES}:{image_id}'
        with contextlib.ExitStack() as undo:
            update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
            with self._sandboxes.lock(instance.uuid):
                pause = self._host.pause_container(instance.uuid)
                if pause is None:
                    raise exception.InstanceNotRunning(instance_id=instance.uuid)
                own = f'{repository}-sandbox'
                self._copies.tag(pause.image, own)
                undo.callback(self._copies.remove, own)
                parts: dict[str, str] = {}
                for found in self._host.containers(instance.uuid):
                    if not found.container_id:
                        continue
                    name = f'{repository}-{found.container_id}'
                    with contextlib.suppress(host.NotFound):  # the agent removes it just now
                        self._copies.commit(found.id, name)
                        undo.callback(self._copies.remove, name)
                        parts[found.container_id] = name
            steps.done('images')
            update_task_state(
                task_state=task_states.IMAGE_UPLOADING,
                expected_state=task_states.IMAGE_PENDING_UPLOAD,
            )
            saved = self._copies.save([own, *parts.values()])
            try:
                stream = snapshot.described(saved, instance.uuid, own, parts)
                self._images.upload(context, image_id, instance.uuid, stream)
            except snapshot.ArchiveError as error:
                raise exception.NovaException(f'No snapshot: {error}') from error
            steps.done('upload')
        LOG.debug('Snapshot taken in %s', steps, instance=instance)
        LOG.info('Made image %s of %d containers', image_id, len(parts), instance=instance)
