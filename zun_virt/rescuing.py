"""Sandboxes that run without their containers, for somebody to look after them.

A virtual machine is rescued by another system that mounts its disk.  What keeps a sandbox
from working is one of its containers: a rescued one has its addresses and volumes, and the
agent starts nothing in it until nova ends that.
"""

from __future__ import annotations

from typing import Any

from oslo_log import log as logging

from zun_virt.building import Building
from zun_virt.errors import in_novas_words

LOG = logging.getLogger(__name__)


class Rescuing(Building):
    """Starts sandboxes without their containers."""

    @in_novas_words
    def rescue(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        image_meta: Any,
        rescue_password: str,
        block_device_info: Any,
        share_info: Any,
    ) -> None:
        """Start a sandbox, which nova has stopped, without its containers.

        A rescue image would have no use in it.
        """
        if self._sandboxes.running(instance.uuid) is not None:
            self._stop(instance, network_info, 0)
        self._start(context, instance, network_info, block_device_info, held=True)
        LOG.info('Rescued: its containers stay stopped', instance=instance)

    @in_novas_words
    def unrescue(self, context: Any, instance: Any) -> None:
        """Let the containers of a sandbox run again that ran when it was rescued."""
        with self._sandboxes.lock(instance.uuid):
            record = self._sandboxes.record(instance.uuid)
            if record is not None and record.held:
                self._sandboxes.store.write(record.replace(held=False))
        if self._sandboxes.running(instance.uuid) is None:
            volumes = self._known_volumes(context, instance)
            self._start(context, instance, instance.get_network_info(), volumes, held=False)
