"""What a request says of networks, in the words of Nova: names become ids, none the default."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence

from zun_agent import errors
from zun_agent.openstack import Client, Json
from zun_virt.sandbox import Sandbox


def requested(neutron: Client, nets: Sequence[Mapping[str, typing.Any]]) -> list[dict[str, str]]:
    """Return Nova's ``networks`` for the ``nets`` of a request, in the same order.

    :raises errors.NotFound: no such network or port for this user
    :raises errors.NetworkConflict: several have that name
    :raises errors.Invalid: two addresses on one network, which Nova cannot take
    """
    return [_requested_one(neutron, net) for net in nets]


def _requested_one(neutron: Client, net: Mapping[str, typing.Any]) -> dict[str, str]:
    entry: dict[str, str] = {}
    if net.get('port'):
        port = _one(neutron, 'port', str(net['port']), errors.PortNotFound)
        if port.get('device_id'):
            raise errors.PortInUse(f'Port {net["port"]} is in use.')
        entry['port'] = port['id']
    else:
        entry['uuid'] = _one(neutron, 'network', str(net['network']), errors.NetworkNotFound)['id']
    addresses = [net[key] for key in ('v4-fixed-ip', 'v6-fixed-ip', 'fixed_ip') if net.get(key)]
    if len(addresses) > 1:
        raise errors.Invalid(
            'One fixed address can be asked for on each network; '
            'make a port with both and name it instead.'
        )
    if addresses:
        entry['fixed_ip'] = str(addresses[0])
    return entry


def default(neutron: Client, project_id: str) -> list[dict[str, str]]:
    """Return the network of a request that names none: the project's oldest, or a shared one.

    :raises errors.NetworkConflict: there is none
    """
    for conditions in ({'project_id': project_id, 'shared': 'False'}, {'shared': 'True'}):
        found = neutron.get('/networks', {**conditions, 'admin_state_up': 'True'})['networks']
        # An external network is for routers; on one without a subnet Nova makes no port.
        usable = [
            network
            for network in found
            if network.get('subnets')
            and not (network.get('router:external') and not network.get('shared'))
        ]
        if usable:
            oldest = min(usable, key=lambda network: str(network.get('created_at')))
            return [{'uuid': oldest['id']}]
    raise errors.NetworkConflict(
        'There is no network that this project may use; make one with a subnet, or name one.'
    )


def security_groups(neutron: Client, project_id: str, wanted: Sequence[str]) -> list[str]:
    """Return the ids of security groups given by name or id.

    :raises errors.SecurityGroupNotFound: there is none
    :raises errors.NetworkConflict: several have that name
    """
    if not wanted:
        return []
    found = neutron.get('/security-groups', {'fields': ['id', 'name'], 'project_id': project_id})[
        'security_groups'
    ]
    ids = []
    for ident in wanted:
        matches = [g['id'] for g in found if g['id'] == ident] or [
            g['id'] for g in found if g['name'] == ident
        ]
        if not matches:
            matches = [_one(neutron, 'security_group', ident, errors.SecurityGroupNotFound)['id']]
        if len(matches) > 1:
            raise errors.NetworkConflict(f'Several security groups are named {ident}; use the id.')
        ids.append(matches[0])
    return ids


def addresses(sandbox: Sandbox, ports: Sequence[Json]) -> dict[str, list[dict[str, typing.Any]]]:
    """Return a sandbox's addresses as the Zun API shows them.

    :param ports: of the sandbox, from Neutron; where one is missing its subnets are None
    """
    subnets = {
        (port['id'], fixed['ip_address']): fixed['subnet_id']
        for port in ports
        for fixed in port['fixed_ips']
    }
    shown: dict[str, list[dict[str, typing.Any]]] = {}
    for address in sandbox.addresses:
        shown.setdefault(address.network_id, []).append(
            {
                'addr': address.address,
                'version': address.version,
                'port': address.port_id,
                'subnet_id': subnets.get((address.port_id, address.address)),
                'preserve_on_delete': address.preserve_on_delete,
            }
        )
    return shown


def _one(neutron: Client, kind: str, ident: str, missing: type[errors.AgentError]) -> Json:
    """Return the one network, port or security group with that id or else that name."""
    plural = kind + 's'
    path = '/' + plural.replace('_', '-')
    for key in ('id', 'name'):
        found: list[Json] = neutron.get(path, {key: ident})[plural]
        if len(found) > 1:
            words = kind.replace('_', ' ')
            raise errors.NetworkConflict(f'Several {words}s are named {ident}; use the id.')
        if found:
            return found[0]
    raise missing(f'{kind.replace("_", " ").capitalize()} {ident} could not be found.')
