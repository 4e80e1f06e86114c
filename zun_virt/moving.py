"""Sandboxes that get another size, or another host.

On its host a sandbox is resized while its containers run.  Nova however plays resize and
revert as if there were two guests, also where both are this host's: what it calls the
destruction of one of them is none.  On another host the sandbox is made anew, and the agent
there makes its containers; the sandbox that stays behind is stopped until nova confirms.
"""

from __future__ import annotations

import json
from typing import Any

from nova import exception
from nova.compute import task_states
from oslo_log import log as logging

from zun_virt import cgroup, cores, resizing, sandbox, servers
from zun_virt.building import Building
from zun_virt.errors import FAILURES, in_novas_words
from zun_virt.steps import Steps

LOG = logging.getLogger(__name__)


class Moving(Building):
    """Resizes and migrates sandboxes."""

    @in_novas_words
    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: Any,
        dest: str,
        flavor: Any,
        network_info: Any,
        block_device_info: Any = None,
        timeout: int = 0,
        retry_interval: int = 0,
    ) -> str:
        """Give a sandbox that stays here its new limits; stop one that is to move.

        :returns: for `finish_migration`, which containers are to run again
        :raises nova.exception.InstanceFaultRollback: it cannot have that flavor, and is
            as it was
        """
        steps = Steps()
        try:
            if servers.stays(servers.migration_of(instance)):
                self._resize_here(instance, flavor, block_device_info)
                steps.done('limits')
                LOG.debug('Resized in %s', steps, instance=instance)
                return ''
            limits = self._limits(instance, flavor, cores.elsewhere)
            resizing.check_containers(
                self._host, self._sandboxes, instance.uuid, limits, flavor.root_gb or None
            )
            runs = self._sandboxes.running(instance.uuid) is not None
        except (resizing.TooSmall, *FAILURES) as error:
            raise _rolled_back(instance, 'stays as it is', error) from error
        steps.done('check')
        try:
            # Nova gives up the way to its volumes next: none may be mounted.
            release = self._releasing(instance, network_info, block_device_info)
            self._sandboxes.stop(instance.uuid, timeout, release)
            self._forget_volumes(instance)
        except FAILURES as error:
            if runs:
                LOG.warning('It cannot move, and starts again: %s', error, instance=instance)
                self._stay(context, instance, network_info, block_device_info)
            raise _rolled_back(instance, 'cannot be moved', error) from error
        steps.done('stop')
        LOG.debug('Ready to move in %s', steps, instance=instance)
        return running(self._sandboxes.record(instance.uuid))

    @in_novas_words
    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        disk_info: Any,
        network_info: Any,
        image_meta: Any,
        resize_instance: bool,
        allocations: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        """Tell the agent of the new limits, or make the sandbox on this host."""
        if servers.stays(migration):
            self._settle(context, instance, network_info, block_device_info, power_on=power_on)
            return
        self._build(
            context,
            instance,
            image_meta,
            network_info,
            block_device_info,
            power_on=power_on,
            running=ran(disk_info),
        )

    @in_novas_words
    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        """Remove what stayed behind, unless it is the sandbox itself."""
        if not servers.stays(migration):
            self._remove(instance, 0, network_info)

    @in_novas_words
    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        """Give a sandbox back its limits, or start again what stayed behind.

        A nova-compute that was ended in the middle of a migration calls this, too.
        """
        if servers.stays(migration):
            self._revert_size(context, instance, network_info, block_device_info)
            self._settle(context, instance, network_info, block_device_info, power_on=power_on)
        elif power_on:
            self._stay(context, instance, network_info, block_device_info)

    def delete_instance_files(self, instance: Any) -> bool:
        """Remove what is left here of a server that was deleted in the middle of a move.

        :returns: whether nothing is left; nova asks again otherwise
        """
        try:
            self._remove(instance, 0, ())
        except FAILURES as error:
            LOG.warning('Something of it is left: %s; tried again later', error, instance=instance)
            return False
        return True

    def _is_reverted_here(self, instance: Any) -> bool:
        """Return whether nova speaks of the guest that a revert ends, which is the sandbox."""
        reverting = instance.task_state == task_states.RESIZE_REVERTING
        return reverting and servers.stays(servers.migration_of(instance))

    def _stay(self, context: Any, instance: Any, network_info: Any, block_device_info: Any) -> None:
        """Have a sandbox run again that was stopped, wholly or in part, because it was to move."""
        record = self._sandboxes.record(instance.uuid)
        if record is not None and record.state is sandbox.State.STOPPING:
            self._stop(instance, network_info, 0)
        if self._sandboxes.running(instance.uuid) is None:
            self._start(context, instance, network_info, block_device_info)

    def _resize_here(self, instance: Any, flavor: Any, block_device_info: Any) -> None:
        runs = self._sandboxes.running(instance.uuid) is not None
        if runs:
            self._check_kept(block_device_info)
        old, new = self._limits(instance), self._limits(instance, flavor)
        resizing.resize(
            self._host,
            self._cgroups,
            self._sandboxes,
            instance.uuid,
            old,
            new,
            flavor.root_gb or None,
        )
        if not runs:
            # Nova has Cinder take them away next; its start mounts them.
            self._let_go(instance, block_device_info)

    def _settle(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any,
        *,
        power_on: bool,
    ) -> None:
        """Make the record of a sandbox that was resized true, and have it run if it shall."""
        limits = self._record(instance, self._limits(instance)).limits
        resizing.describe(self._sandboxes, instance.uuid, limits)
        if power_on and self._sandboxes.running(instance.uuid) is None:
            self._start(context, instance, network_info, block_device_info)

    def _revert_size(
        self, context: Any, instance: Any, network_info: Any, block_device_info: Any
    ) -> None:
        """Give a sandbox its former limits, with an end to what does not fit into them.

        Nova cannot leave it the new ones, which are not its flavor's any more.
        """
        limits = self._limits(instance)
        try:
            resizing.resize(
                self._host, self._cgroups, self._sandboxes, instance.uuid, limits, limits
            )
        except (resizing.TooSmall, cgroup.CgroupError) as error:
            LOG.warning('Restarting it within its former limits: %s', error, instance=instance)
            self._stop(instance, network_info, 0)
            self._start(context, instance, network_info, block_device_info)


def running(record: sandbox.Sandbox | None) -> str:
    """Return which containers are to run again on the host to which a sandbox goes."""
    return json.dumps({'running': list(record.running) if record else []})


def ran(disk_info: Any) -> tuple[str, ...]:
    """Return the containers that ran on the host from which a sandbox comes.

    :param disk_info: as `running` returned it there
    """
    try:
        return tuple(str(one) for one in json.loads(disk_info)['running'])
    except (ValueError, TypeError, KeyError):
        return ()


def _rolled_back(instance: Any, outcome: str, error: Exception) -> exception.InstanceFaultRollback:
    reason = f'sandbox {instance.uuid} {outcome}: {error}'
    return exception.InstanceFaultRollback(exception.ResizeError(reason=reason))
