"""What nova knows of the servers on this host, for what the driver does unasked."""

from __future__ import annotations

import contextlib
import enum
import typing
from collections.abc import Callable

from nova import context as nova_context
from nova import exception, objects, utils
from nova.virt import driver

_OVER = frozenset({'confirmed', 'reverted', 'completed', 'failed', 'cancelled'})
"""States of a migration after which nova asks nothing more of the host that was left."""


class Fate(enum.StrEnum):
    """What has become of a server of which this host has something."""

    HERE = 'it is here'
    MOVING = 'it moves, or its move is not confirmed'
    ELSEWHERE = 'it is on another host, or on none'
    DELETED = 'it is deleted'
    UNKNOWN = 'nova does not know it'

    @property
    def over(self) -> bool:
        """Whether nova will never ask this host for the server again."""
        return self not in (Fate.HERE, Fate.MOVING)


class Servers:
    """Reads nova's records of the servers that are, or were, on one host."""

    def __init__(self, host: str) -> None:
        """Read those of `host`, nova's name of it."""
        self._host = host

    def here(self) -> list[typing.Any]:
        """Return nova's objects of all servers that it places on this host."""
        admin = nova_context.get_admin_context()
        return list(objects.InstanceList.get_by_host(admin, self._host, expected_attrs=[]))

    def get(self, instance_id: str) -> typing.Any:
        """Return nova's object of a server, None when there is none or it is not here."""
        admin = nova_context.get_admin_context()
        wanted = ['flavor', 'info_cache', 'metadata', 'system_metadata', 'trusted_certs']
        with contextlib.suppress(exception.InstanceNotFound):
            found = objects.Instance.get_by_uuid(admin, instance_id, expected_attrs=wanted)
            if found.host == self._host:
                return found
        return None

    def volumes(self, server: typing.Any) -> typing.Any:
        """Return the server's block devices, as nova gives them to a driver."""
        found = objects.BlockDeviceMappingList.get_by_instance_uuid(server._context, server.uuid)
        return driver.get_block_device_info(server, found)

    def fate(self, instance_id: str) -> Fate:
        """Return what has become of a server of which this host has something."""
        admin = nova_context.get_admin_context(read_deleted='yes')
        try:
            found = objects.Instance.get_by_uuid(admin, instance_id, expected_attrs=[])
        except exception.InstanceNotFound:
            return Fate.UNKNOWN
        if found.deleted:
            return Fate.DELETED
        if found.host == self._host:
            return Fate.HERE
        moves = objects.MigrationList.get_by_filters(
            nova_context.get_admin_context(), {'host': self._host, 'instance_uuid': instance_id}
        )
        if any(move.status not in _OVER for move in moves):
            return Fate.MOVING
        return Fate.ELSEWHERE

    def alone(self, instance_id: str, act: Callable[[], None]) -> None:
        """Do something while nova does nothing else with the server, as its manager does."""
        utils.synchronized(instance_id)(act)()


def migration_of(instance: typing.Any) -> typing.Any:
    """Return the migration that a server is in, None when it is in none."""
    moved = instance.migration_context
    if moved is None:
        return None
    return objects.Migration.get_by_id(instance._context, moved.migration_id)


def stays(migration: typing.Any) -> bool:
    """Return whether both guests that nova speaks of in a migration are on one host."""
    return migration is not None and migration.source_compute == migration.dest_compute
