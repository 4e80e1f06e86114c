"""Nova's servers, as far as they can be sandboxes: how they are read and found."""

from __future__ import annotations

import dataclasses
import re
import uuid

from zun_agent import errors
from zun_agent.flavors import Flavor, flavor_of
from zun_agent.openstack import Client, Json
from zun_virt import sandbox as contract

# 2.61: a flavor's extra specs in the listing; 2.47: the flavor's content in a server.
READ_VERSION = '2.61'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """What Nova says of one server.

    :ivar host: on which it is, in nova-compute's words; None where the asker may not know
    :ivar fault: why it is in status ERROR
    :ivar is_here: this host had its sandbox when Nova was asked
    """

    id: str
    name: str
    project_id: str
    status: str
    task_state: str | None
    locked: bool
    flavor: Flavor
    image_id: str | None
    metadata: dict[str, str]
    host: str | None = None
    fault: str | None = None
    is_here: bool = False


def find(nova: Client, project_id: str, ident: str) -> Server:
    """Return the project's server with that id or else that name.

    :raises errors.SandboxNotFound: there is none
    :raises errors.SandboxConflict: several have that name
    """
    missing = errors.SandboxNotFound(f'Sandbox {ident} could not be found.')
    if is_uuid(ident):
        try:
            server = read(nova.get(f'/servers/{ident}', microversion=READ_VERSION)['server'])
        except errors.NotFound:
            pass
        else:
            if server.project_id != project_id:  # an administrator sees everybody's
                raise missing
            return server
    query = {'name': exactly(ident)}
    found = nova.get('/servers/detail', query, microversion=READ_VERSION)['servers']
    matches = [
        server
        for server in map(read, found)
        if server.name == ident and server.project_id == project_id
    ]
    if not matches:
        raise missing
    if len(matches) > 1:
        raise errors.SandboxConflict(f'{len(matches)} servers are named {ident}; use the id.')
    return matches[0]


def read(found: Json) -> Server:
    """Read a server in the form in which Nova shows it at `READ_VERSION`."""
    flavor = found['flavor']
    image = found.get('image') or {}
    return Server(
        id=found['id'],
        name=found['name'],
        project_id=found['tenant_id'],
        status=found['status'],
        task_state=found.get('OS-EXT-STS:task_state'),
        locked=bool(found.get('locked')),
        # A server tells the name of its flavor as it was, and no id.
        flavor=flavor_of({**flavor, 'id': '', 'name': flavor['original_name']}),
        image_id=image.get('id'),
        metadata=found.get('metadata') or {},
        host=found.get('OS-EXT-SRV-ATTR:host'),
        fault=(found.get('fault') or {}).get('message'),
    )


def exactly(name: str) -> str:
    """Return a regular expression for this name, as Nova's listing takes it."""
    return '^' + re.sub(r'([.^$*+?{}\[\]\\|()])', r'\\\1', name) + '$'


def limits(server: Server) -> contract.Limits:
    """Return what the server's flavor lets all containers in it use together."""
    flavor = server.flavor
    return contract.Limits(
        cpus=flavor.vcpus, memory_mb=flavor.memory, pids=None, disk_gb=flavor.disk
    )


def is_uuid(text: str) -> bool:
    """Tell whether the text is a uuid, in any of its spellings."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
