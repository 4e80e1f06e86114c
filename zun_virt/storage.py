"""The part of the driver that gives volumes to sandboxes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NoReturn

import nova.conf
from nova import exception, objects, utils
from nova.compute import vm_states
from nova.virt import driver
from nova.volume import cinder
from oslo_log import log as logging

from zun_virt import sandbox, servers
from zun_virt.counters import Counts
from zun_virt.errors import in_novas_words
from zun_virt.plugging import Plugging
from zun_virt.steps import Steps
from zun_virt.volume import PROPERTY, Brick, Request, Volumes

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


def volumes_of(store: sandbox.SandboxStore) -> Volumes:
    """Return what mounts volumes for the sandboxes in `store`.

    :raises OSError: containers could not see them
    """
    share_base = CONF.zun_virt.nfs_mount_point_base
    brick = Brick(utils.get_root_helper(), CONF.host, share_base)
    volumes = Volumes(brick, store)
    volumes.prepare()
    return volumes


class Storage(Plugging):
    """Attaches, detaches and extends volumes."""

    _volumes: Volumes

    def prepare_for_spawn(self, instance: Any) -> None:
        """Refuse a server that is to boot from a volume, before one is made for it."""
        if not instance.image_ref:
            raise exception.InstanceUnacceptable(
                instance_id=instance.uuid,
                reason='a sandbox cannot boot from a volume; create it from an image, and give it '
                'volumes that are not bootable',
            )

    def default_root_device_name(self, instance: Any, image_meta: Any, root_bdm: Any) -> str:
        """Return what names the volumes' devices follow, as those of virtual machines do."""
        return '/dev/vda'

    @in_novas_words
    def get_volume_connector(self, instance: Any) -> dict[str, Any]:
        """Return what Cinder must know of this host."""
        return self._volumes.connector(CONF.my_block_storage_ip)

    @in_novas_words
    def attach_volume(
        self,
        context: Any,
        connection_info: Any,
        instance: Any,
        mountpoint: str,
        disk_bus: str | None = None,
        device_type: str | None = None,
        encryption: Any = None,
    ) -> None:
        """Mount a volume in a sandbox, where containers that run see it at once."""
        request = Request(connection_info, mountpoint)
        self._check_kept_by_revert(instance, request)
        steps = Steps()
        with contextlib.ExitStack() as undo:
            made = self._mount(context, instance, request)
            # Of a failed attachment nova only tells Cinder, which gives the volume to others.
            undo.callback(self._volumes.forget, instance.uuid, request)
            steps.done('mount')
            self._note(instance, request.id, made)
            steps.done('record')
            undo.pop_all()
        LOG.debug('Attached volume %s in %s', request.id, steps, instance=instance)

    @in_novas_words
    def detach_volume(
        self,
        context: Any,
        connection_info: Any,
        instance: Any,
        mountpoint: str,
        encryption: Any = None,
    ) -> None:
        """Take a volume from a sandbox, if nothing in it is in use.

        :raises nova.exception.DeviceDetachFailed: it is in use, and stays attached
        """
        request, steps = Request(connection_info, mountpoint), Steps()
        self._volumes.unmount(instance.uuid, request)
        steps.done('unmount')
        self._note(instance, request.id, None)
        steps.done('record')
        LOG.debug('Detached volume %s in %s', request.id, steps, instance=instance)

    @in_novas_words
    def extend_volume(
        self, context: Any, connection_info: Any, instance: Any, requested_size: int
    ) -> None:
        """Grow the file system of a volume that Cinder has extended."""
        self._volumes.grow(instance.uuid, Request(connection_info, ''))

    @in_novas_words
    def get_all_volume_usage(self, context: Any, compute_host_bdms: Any) -> list[dict[str, Any]]:
        """Return how much was read and written of the volumes that are mounted here.

        :param compute_host_bdms: nova's servers on this host, and their volumes
        """
        found = []
        for entry in compute_host_bdms:
            instance = entry['instance']
            usage = self._volumes.usage(instance.uuid)
            for mapping in entry['instance_bdms']:
                if (used := usage.get(mapping.volume_id)) is not None:
                    shown = {'volume': mapping.volume_id, 'instance': instance}
                    found.append(shown | used._asdict())
        return found

    @in_novas_words
    def block_stats(self, instance: Any, disk_id: str) -> list[int | None]:
        """Return how much was read and written of a volume, nothing of one that is not mounted.

        :param disk_id: the name of its device in nova, without ``/dev/``
        :returns: requests and bytes read, requests and bytes written, and None for flushes
        """
        record = self._sandboxes.record(instance.uuid)
        usage = self._volumes.usage(instance.uuid)
        for volume in record.volumes if record else ():
            if volume.device == f'/dev/{disk_id}' and volume.id in usage:
                return [*usage[volume.id], None]
        return [*Counts(), None]

    def swap_volume(
        self,
        context: Any,
        old_connection_info: Any,
        new_connection_info: Any,
        instance: Any,
        mountpoint: str,
        resize_to: int,
    ) -> NoReturn:
        """Refuse; nova then gives the new volume back."""
        raise exception.InvalidInput(
            reason='the volume of a sandbox cannot be exchanged while it is mounted; detach it'
        )

    def _mount_all(
        self, context: Any, instance: Any, block_device_info: Any
    ) -> tuple[sandbox.Volume, ...]:
        """Mount all volumes of a server that is about to start."""
        record = self._sandboxes.record(instance.uuid)
        # Of one that stays attached the record knows it; Cinder need not be there for a start.
        known = {volume.id: volume.read_only for volume in record.volumes} if record else {}
        return tuple(
            self._mount(
                context, instance, request, mapping.get('guest_format'), known.get(request.id)
            )
            for request, mapping in _requests(block_device_info)
        )

    @staticmethod
    def _check_kept(block_device_info: Any) -> None:
        """Refuse what would take the device of a volume away under its mount.

        Nova exchanges all attachments of a server that is resized, on the same host, too.

        :raises nova.exception.InvalidInput: there is such a volume
        """
        devices = [request.id for request, _ in _requests(block_device_info) if not request.is_file]
        if devices:
            raise exception.InvalidInput(
                reason=f'volumes {", ".join(devices)} are block devices, which Cinder would take '
                'away while they are mounted; stop the server, detach them, or resize it to '
                'another host'
            )

    @staticmethod
    def _check_kept_by_revert(instance: Any, request: Request) -> None:
        """Refuse a volume that the revert of a resize here would take away under its mount.

        :raises nova.exception.InvalidInput: it is such a volume
        """
        if (
            instance.vm_state == vm_states.RESIZED
            and not request.is_file
            and servers.stays(servers.migration_of(instance))
        ):
            raise exception.InvalidInput(
                reason=f'volume {request.id} is a block device, which Cinder would take away while '
                'it is mounted if the resize on this host were reverted; confirm or revert that '
                'first'
            )

    @staticmethod
    def _known_volumes(context: Any, instance: Any) -> Any:
        """Return what nova knows of a server's volumes, where it does not say so itself."""
        mappings = objects.BlockDeviceMappingList.get_by_instance_uuid(context, instance.uuid)
        return driver.get_block_device_info(instance, mappings)

    def _mount(
        self,
        context: Any,
        instance: Any,
        request: Request,
        kind: str | None = None,
        read_only: bool | None = None,
    ) -> sandbox.Volume:
        """Mount a volume.

        :param kind: the file system to be made on a blank one; None for as its user wants it
        :param read_only: whether nobody may write to it; None for as Cinder has it
        """
        asked = functools.cache(lambda: _properties(context, request.id))
        if read_only is None and not request.read_only:
            # Cinder looks for the volume's flag with the rights of who attaches it. To a tenant
            # it calls the connection writable unless its own driver, as that of NFS, has read
            # the flag before with more.
            read_only = asked().get('readonly') == 'True'
        if read_only:
            request.data['access_mode'] = 'ro'
        default = CONF.zun_virt.default_file_system
        return self._volumes.mount(
            instance.uuid, request, lambda: kind or str(asked().get(PROPERTY) or default)
        )

    def _let_go(self, instance: Any, block_device_info: Any) -> None:
        """Unmount and disconnect the volumes of a sandbox that does not run.

        :raises nova.exception.DeviceDetachFailed: one is in use by somebody else on this host
        """
        requests = [request for request, _ in _requests(block_device_info)]
        self._volumes.release(instance.uuid, requests)

    def _releasing(
        self, instance: Any, network_info: Any, block_device_info: Any = None
    ) -> Callable[[], None]:
        """Return what takes its interfaces and volumes from a sandbox that has stopped."""
        unplug = self._unplugging(instance, network_info)

        def release() -> None:
            try:
                unplug()
            finally:
                self._let_go(instance, block_device_info)

        return release

    def _stopping(self, instance: Any, network_info: Any) -> Callable[[], None]:
        """Return what takes its interfaces and volumes from one that is to start again."""

        unplug = self._unplugging(instance, network_info)

        def release() -> None:
            unplug()
            try:
                self._volumes.release(instance.uuid)
            except exception.DeviceDetachFailed as error:
                # Its next start finds it where it is.
                LOG.warning('Left mounted: %s', error, instance=instance)

        return release

    def _forget_volumes(self, instance: Any) -> None:
        """Write down that a sandbox has no volumes: of those it gets again Cinder is asked."""
        with self._sandboxes.lock(instance.uuid):
            record = self._sandboxes.record(instance.uuid)
            if record is not None:
                self._sandboxes.store.write(record.replace(volumes=()))

    def _note(self, instance: Any, volume_id: str, volume: sandbox.Volume | None) -> None:
        """Write down in the sandbox's record what volumes it has."""
        with self._sandboxes.lock(instance.uuid):
            record = self._sandboxes.record(instance.uuid)
            if record is not None:
                others = [other for other in record.volumes if other.id != volume_id]
                volumes = (*others, volume) if volume else tuple(others)
                self._sandboxes.store.write(record.replace(volumes=volumes))


def _requests(block_device_info: Any) -> list[tuple[Request, Any]]:
    return [
        (Request(mapping['connection_info'], mapping['mount_device']), mapping)
        for mapping in driver.block_device_info_get_mapping(block_device_info)
        if mapping['connection_info']  # else it has not been attached yet
    ]


def _properties(context: Any, volume_id: str) -> dict[str, str]:
    """Return what Cinder shows as the properties of a volume, its flag `readonly` among them."""
    found: dict[str, str] = cinder.API().get(context, volume_id).get('volume_metadata') or {}
    return found
