"""What Open vSwitch has of servers' ports.

os-vif plugs and unplugs a port that one knows; what is there it does not tell.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import typing

import nova.conf

CONF = nova.conf.CONF


class SwitchError(Exception):
    """Open vSwitch does not answer; the message says why."""


@dataclasses.dataclass(frozen=True)
class Port:
    """A server's port on the switch.

    :ivar device: name of the interface
    :ivar port_id: Neutron's
    :ivar instance_id: nova's
    """

    device: str
    port_id: str
    instance_id: str


def ports(instance_id: str | None = None) -> list[Port]:
    """Return all servers' ports, with one question to the switch's database.

    Those of other hypervisors on the same switch are among them.

    :param instance_id: of the one server whose ports are wanted
    :raises SwitchError: it does not answer
    """
    settings = CONF.os_vif_ovs
    seconds = settings.ovs_vsctl_timeout
    command = [
        'ovs-vsctl',
        f'--db={settings.ovsdb_connection}',
        f'--timeout={seconds}',
        '--format=json',
        '--columns=name,external_ids',
        *(['list', 'Interface'] if instance_id is None else ['find', 'Interface']),
        *([f'external_ids:vm-uuid={instance_id}'] if instance_id else []),
    ]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 5, check=True
        )
        return parse(json.loads(answer.stdout))
    except subprocess.CalledProcessError as error:
        raise SwitchError(f'Open vSwitch does not answer: {error.stderr.strip()}') from error
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise SwitchError(f'Open vSwitch does not answer: {error}') from error


def parse(table: dict[str, typing.Any]) -> list[Port]:
    """Return the servers' ports in a table as ``ovs-vsctl --format=json`` writes it."""
    found = []
    for name, (_kind, pairs) in table['data']:
        known = dict(pairs)
        if 'iface-id' in known and 'vm-uuid' in known:
            found.append(Port(name, known['iface-id'], known['vm-uuid']))
    return found
