"""In what the APIs' view of a server and of its containers differs from the host."""

from __future__ import annotations

import openstack

from tests.cloud import host, storage
from tests.cloud.users import User
from zun_virt.sandbox import Sandbox, State

COMES_AND_GOES = ('attaching', 'detaching', 'reserved')
"""States of a volume in which Nova leaves it for good when it dies at that instant."""


def of_server(user: User, admin: User, server_id: str, *, runs: bool) -> str | None:
    """Return in what a server that Nova has done with and its sandbox differ, None for nothing.

    :param admin: who sees of a port whether Nova had come so far as to bind it
    :param runs: whether Nova says that it runs
    """
    record = host.sandboxes().read(server_id)
    found = host.containers(server_id, 'pause')
    if record is None or len(found) != 1:
        return f'{server_id} has no record, or {len(found)} pause containers'
    if (found[0].status == 'running') is not runs:
        return f'{server_id} should {"" if runs else "not "}run, and is {found[0].status}'
    if record.state is not (State.READY if runs else State.STOPPED):
        return f'{server_id} runs: {runs}, and its record says {record.state}'
    started = found[0].attrs['State']['StartedAt']
    if runs and (record.pause is None or record.pause.started_at != started):
        return f'{server_id} was started at {started}, and its record says {record.pause}'
    return _of_ports(admin, record, runs=runs) or _of_volumes(user, record, runs=runs)


def _of_ports(admin: User, record: Sandbox, *, runs: bool) -> str | None:
    server_id = record.instance_id
    # One that Nova made in the instant of its death, and never bound, goes with the server.
    found = admin.network.ports(device_id=server_id)
    ports = {port.id for port in found if port.binding_host_id}
    if {address.port_id for address in record.addresses} != ports:
        return f'{server_id} has ports {ports}, and its record says {record.addresses}'
    missing = {f'tap{port}'[:14] for port in ports} - host.switch_ports() if runs else ()
    return f'{server_id}: the switch lacks {missing}' if missing else None


def _of_volumes(user: User, record: Sandbox, *, runs: bool) -> str | None:
    server_id = record.instance_id
    listed = {one.volume_id for one in user.compute.volume_attachments(server_id)}
    mine = {volume.id for volume in record.volumes}
    if mine - listed:
        return f'{server_id}: its record has volumes {mine - listed}, which Nova does not know'
    for volume_id in listed - mine:
        if (status := _status(user, volume_id)) not in COMES_AND_GOES:
            return f'{server_id}: its record lacks volume {volume_id}, which is {status}'
    if runs:
        mounts = host.mounts()
        for volume_id in mine:
            if not any(volume_id in mount for mount in mounts):
                return f'{server_id}: volume {volume_id} is not mounted'
    return None


def _status(user: User, volume_id: str) -> str:
    try:
        return str(user.sdk.block_storage.get_volume(volume_id).status)
    except openstack.exceptions.NotFoundException:
        return 'gone'


def of_container(user: User, container_id: str, server_id: str, *, runs: bool) -> str | None:
    """Return in what a container that nobody ever stopped differs from its server.

    :param runs: whether its server runs
    """
    shown = user.show(container_id)
    wanted = 'Running' if runs else 'Stopped'
    if shown.status != wanted or shown.task_state:
        return f'container {container_id} of {server_id} is {shown.status}, {shown.task_state}'
    found = host.copies(container_id)
    alive = [one for one in found if one.status == 'running']
    if len(found) > 1 or bool(alive) is not runs:
        return f'container {container_id} is {wanted}, in Docker {[one.status for one in found]}'
    record = host.sandboxes().read(server_id)
    if not alive or record is None:
        return None
    expected = {storage.path(volume.id) for volume in record.volumes}
    seen = set(user.execute(container_id, 'cat /proc/mounts')[0].split())
    missing = expected - seen
    return f'container {container_id} does not see {missing}' if missing else None
