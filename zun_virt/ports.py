"""What nova and Neutron know of the ports of a host's sandboxes.

nova keeps what it knows of a server's ports in a cache.  It hears of a port that changes,
not of a subnet, and not of names; and of nothing that happens while a message gets lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence

import oslo_messaging
from keystoneauth1 import exceptions as keystone_errors
from neutronclient.common import exceptions as neutron_errors
from nova import context as nova_context
from nova import exception, objects
from nova.network import neutron

from zun_virt import network

Json = dict[str, typing.Any]

_FAILURES = (
    exception.NovaException,
    keystone_errors.ClientException,
    neutron_errors.NeutronException,
    oslo_messaging.MessagingException,
)
_PORT_FIELDS = ['id', 'device_id', 'network_id', 'fixed_ips', 'dns_name', 'dns_assignment']
_NETWORKS_PER_REQUEST = 100  # their ids are in the URL


class PortsUnknown(Exception):
    """Neither nova nor Neutron can be asked; the message says why."""


class Fixed(typing.NamedTuple):
    """What a port has in one subnet."""

    addresses: frozenset[str]
    cidr: str
    gateway: str | None
    nameservers: tuple[str, ...]
    routes: frozenset[tuple[str, str]]


def cached(vif: typing.Any) -> frozenset[Fixed]:
    """Return what nova's cache says that a port has, subnet by subnet."""
    return frozenset(
        Fixed(
            addresses=frozenset(str(ip['address']) for ip in subnet['ips']),
            cidr=str(subnet['cidr']),
            gateway=network.literal(subnet.get('gateway')),
            nameservers=network.nameservers(subnet),
            routes=frozenset(
                (str(route['cidr']), str(network.literal(route.get('gateway'))))
                for route in subnet.get('routes') or []
            ),
        )
        for subnet in network.subnets(vif)
    )


@dataclasses.dataclass(frozen=True)
class Known:
    """What Neutron said, all at one time.

    :ivar ports: of each server, by its uuid
    :ivar subnets: of their networks, by id
    :ivar dhcp: address of each subnet's DHCP server, by the subnet's id
    """

    ports: Mapping[str, Sequence[Json]]
    subnets: Mapping[str, Json]
    dhcp: Mapping[str, str]

    def differs(self, instance_id: str, vifs: Sequence[typing.Any]) -> bool:
        """Return whether Neutron says something else of a server's ports than nova's cache.

        A port that only the cache has does not count: Neutron was asked for this host's.
        """
        told = {vif['id']: cached(vif) for vif in vifs}
        view = self.view(instance_id)
        return any(told.get(port) != fixed for port, fixed in view.items())

    def view(self, instance_id: str) -> dict[str, frozenset[Fixed]]:
        """Return what Neutron said of a server's ports, by their ids."""
        return {port['id']: self.fixed(port) for port in self.ports.get(instance_id, ())}

    def missing(self, instance_id: str, vifs: Sequence[typing.Any]) -> list[typing.Any]:
        """Return the ports of nova's cache of which Neutron said nothing."""
        known = {port['id'] for port in self.ports.get(instance_id, ())}
        return [vif for vif in vifs if vif['id'] not in known]

    def names(self, instance_id: str) -> dict[tuple[str, str], str]:
        """Return the full names that ports were given, by port and address."""
        return {
            (port['id'], entry['ip_address']): entry['fqdn'].rstrip('.')
            for port in self.ports.get(instance_id, ())
            if port.get('dns_name')
            for entry in port.get('dns_assignment') or ()
        }

    def fixed(self, port: Json) -> frozenset[Fixed]:
        """Return what a port has, subnet by subnet."""
        by_subnet: dict[str, list[str]] = {}
        for entry in port['fixed_ips']:
            by_subnet.setdefault(entry['subnet_id'], []).append(entry['ip_address'])
        return frozenset(
            self._fixed(self.subnets[subnet], addresses)
            for subnet, addresses in by_subnet.items()
            if subnet in self.subnets
        )

    def _fixed(self, subnet: Json, addresses: Sequence[str]) -> Fixed:
        servers = subnet.get('dns_nameservers') or ()
        if not servers and subnet.get('enable_dhcp') and subnet['id'] in self.dhcp:
            servers = (self.dhcp[subnet['id']],)
        return Fixed(
            addresses=frozenset(addresses),
            cidr=subnet['cidr'],
            gateway=subnet['gateway_ip'],
            nameservers=tuple(servers),
            routes=frozenset(
                (route['destination'], route['nexthop']) for route in subnet.get('host_routes', ())
            ),
        )


class Ports:
    """Asks nova and Neutron, with this service's own rights."""

    def __init__(self, host: str) -> None:
        """Ask about the servers of one compute host."""
        self._host = host

    @functools.cached_property
    def _api(self) -> typing.Any:
        return neutron.API()

    def servers(self) -> list[typing.Any]:
        """Return nova's objects for the host's servers, with their caches.

        :raises PortsUnknown: nova cannot be asked
        """
        with _asking('nova'):
            return list(
                objects.InstanceList.get_by_host(
                    _admin(), self._host, expected_attrs=['info_cache']
                )
            )

    def cache(self, instance: typing.Any) -> list[typing.Any]:
        """Return the ports of a server as nova's database has them now.

        What comes with a call may be older: two ports can be attached at a time.

        :raises PortsUnknown: nova cannot be asked
        """
        if instance.info_cache is not None:
            with _asking('nova'), contextlib.suppress(exception.InstanceInfoCacheNotFound):
                instance.info_cache.refresh()
        return list(instance.get_network_info())

    def refresh(self, instance: typing.Any) -> None:
        """Have nova's cache say what Neutron does.

        :raises PortsUnknown: one of them cannot be asked
        """
        with _asking('Neutron'):
            self._api.get_instance_nw_info(_admin(), instance, force_refresh=True)

    def known(self) -> Known:
        """Return what Neutron knows of all ports of this host.

        :raises PortsUnknown: Neutron cannot be asked
        """
        with _asking('Neutron'):
            client = neutron.get_client(_admin(), admin=True)
            ports = client.list_ports(**{'binding:host_id': self._host, 'fields': _PORT_FIELDS})
            by_server: dict[str, list[Json]] = {}
            for port in ports['ports']:
                by_server.setdefault(port['device_id'], []).append(port)
            networks = sorted({port['network_id'] for port in ports['ports']})
            subnets: dict[str, Json] = {}
            dhcp: dict[str, str] = {}
            for first in range(0, len(networks), _NETWORKS_PER_REQUEST):
                some = networks[first : first + _NETWORKS_PER_REQUEST]
                found = client.list_subnets(network_id=some)['subnets']
                subnets.update((subnet['id'], subnet) for subnet in found)
                servers = client.list_ports(network_id=some, device_owner='network:dhcp')
                for port in servers['ports']:
                    for entry in port['fixed_ips']:
                        # nova takes the last one, too
                        dhcp[entry['subnet_id']] = entry['ip_address']
        return Known(by_server, subnets, dhcp)

    def has_lost(self, instance: typing.Any, port_id: str) -> bool:
        """Return whether a server's port was deleted, or given to another.

        :raises PortsUnknown: Neutron cannot be asked
        """
        with _asking('Neutron'):
            client = neutron.get_client(_admin(), admin=True)
            try:
                port = client.show_port(port_id)['port']
            except (neutron_errors.PortNotFoundClient, exception.PortNotFound):
                return True
            return bool(port['device_id'] != instance.uuid)


def _admin() -> typing.Any:
    return nova_context.get_admin_context()


@contextlib.contextmanager
def _asking(whom: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise PortsUnknown(f'{whom} cannot be asked for ports: {error}') from error
