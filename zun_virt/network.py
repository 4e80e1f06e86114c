"""A sandbox's interfaces: what Neutron gave it, put into its network namespace.

Planning is pure; `Network` carries a plan out, with os-vif for the host's side.
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence

import nova.conf
import os_vif
import os_vif.exception
import os_vif.objects
from nova import exception
from nova.network import os_vif_util
from oslo_log import log as logging
from oslo_utils import netutils

from zun_virt import sandbox
from zun_virt.privsep import FAILURES, RouteRefused, interfaces

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

HOSTS_HEADER = """\
# Written by the sandbox's host.
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """One interface as the sandbox shall have it.

    :ivar device: name of its other end on the host
    :ivar mtu: bytes, None for the kernel's default
    :ivar addresses: each with its prefix length
    :ivar routes: destination and gateway, None for a direct one
    :ivar accept_ra: whether a default route must be learnt from a router Neutron
        knows nothing of
    """

    port_id: str
    device: str
    mac: str
    mtu: int | None
    addresses: tuple[str, ...]
    routes: tuple[tuple[str, str | None], ...]
    accept_ra: bool = False

    def request(self, former: Iterable[sandbox.Address] = ()) -> dict[str, typing.Any]:
        """Return it as `privsep.interfaces.plug` takes it.

        :param former: addresses that the sandbox had; what others gave it is left alone
        """
        own = [
            f'{one.address}/{one.prefix_length}' for one in former if one.port_id == self.port_id
        ]
        return {
            'mac': self.mac,
            'mtu': self.mtu,
            'addresses': list(self.addresses),
            'stale': [address for address in own if address not in self.addresses],
            'routes': [list(route) for route in self.routes],
            'accept_ra': self.accept_ra,
        }


def plan(network_info: Iterable[typing.Any]) -> list[Interface]:
    """Return the interfaces for nova's model of the ports.

    A destination that two ports offer, as every subnet's default route is, goes by
    the first. A sandbox that is the gateway itself has no route by it.
    """
    vifs = list(network_info)
    taken: set[str] = set()
    return [_interface(vif, _own(vif, vifs), taken) for vif in vifs]


def _own(vif: typing.Any, vifs: Iterable[typing.Any]) -> set[_IPAddress]:
    """Return the sandbox's addresses on a port's network, with what the kernel gives its link."""
    network = vif['network']['id']
    on_it = [one.address for one in addresses(vifs) if one.network_id == network]
    local = netutils.get_ipv6_addr_by_EUI64('fe80::', vif['address'])
    return {ipaddress.ip_address(str(address)) for address in (*on_it, local)}


def _interface(vif: typing.Any, own: set[_IPAddress], taken: set[str]) -> Interface:
    routes: list[tuple[str, str | None]] = []
    accept_ra = False
    for subnet in subnets(vif):
        gateway = literal(subnet.get('gateway'))
        offered = [
            (str(route['cidr']), literal(route.get('gateway')))
            for route in subnet.get('routes') or []
        ]
        if gateway:
            offered.append(('::/0' if subnet['version'] == 6 else '0.0.0.0/0', gateway))
        elif subnet['version'] == 6:
            accept_ra = True
        for destination, via in offered:
            by_itself = via and ipaddress.ip_address(via) in own  # the kernel would refuse it
            if destination not in taken and not by_itself:
                taken.add(destination)
                routes.append((destination, via))
    return Interface(
        port_id=vif['id'],
        device=device_name(vif),
        mac=vif['address'],
        mtu=vif['network'].get_meta('mtu'),
        addresses=tuple(f'{entry.address}/{entry.prefix_length}' for entry in addresses([vif])),
        routes=tuple(routes),
        accept_ra=accept_ra,
    )


def device_name(vif: typing.Any) -> str:
    """Return the name of the interface's end on the host."""
    return str(vif['devname'] or f'tap{vif["id"]}'[:14])


def addresses(
    network_info: Iterable[typing.Any], names: Mapping[tuple[str, str], str] | None = None
) -> list[sandbox.Address]:
    """Return the fixed addresses of all ports, as the sandbox's record holds them.

    :param names: full names that Neutron has for them, by port and address
    """
    names = names or {}
    return [
        sandbox.Address(
            network_id=vif['network']['id'],
            port_id=vif['id'],
            mac=vif['address'],
            address=str(ip['address']),
            prefix_length=ipaddress.ip_network(str(subnet['cidr']), strict=False).prefixlen,
            version=subnet['version'],
            preserve_on_delete=bool(vif.get('preserve_on_delete')),
            fqdn=names.get((vif['id'], str(ip['address'])), ''),
        )
        for vif in network_info
        for subnet in subnets(vif)
        for ip in subnet['ips']
    ]


def hosts_file(hostname: str, fixed: Sequence[sandbox.Address]) -> str:
    """Return the content of ``/etc/hosts``."""
    lines = []
    for one in fixed:
        # The first name is the one that programs show for an address.
        own = [one.fqdn, one.fqdn.partition('.')[0], hostname]
        lines.append(' '.join(dict.fromkeys([one.address, *filter(None, own)])))
    # Programs expect their own name to resolve, network or not.
    return HOSTS_HEADER + ''.join(f'{line}\n' for line in lines or [f'127.0.1.1 {hostname}'])


def resolv_conf(network_info: Iterable[typing.Any]) -> str:
    """Return the content of ``/etc/resolv.conf``: every subnet's servers, each once."""
    servers = dict.fromkeys(
        server for vif in network_info for subnet in subnets(vif) for server in nameservers(subnet)
    )
    return ''.join(f'nameserver {server}\n' for server in servers)


def nameservers(subnet: typing.Any) -> tuple[str, ...]:
    """Return the name servers of a subnet: without any its DHCP server, as DHCP would tell."""
    told = [str(server['address']) for server in subnet.get('dns') or []]
    if not told and subnet.get_meta('enable_dhcp') and subnet.get_meta('dhcp_server'):
        told = [str(subnet.get_meta('dhcp_server'))]
    return tuple(told)


def subnets(vif: typing.Any) -> Iterator[typing.Any]:
    """Return the subnets in which a port has addresses."""
    for subnet in vif['network']['subnets'] or []:
        if subnet.get('cidr'):
            yield subnet


def literal(ip: typing.Any) -> str | None:
    """Return the address of nova's model of one, which may itself be without."""
    address = ip.get('address') if ip else None
    return str(address) if address else None


def switch_database() -> str:
    """Return where os-vif looks for Open vSwitch's database."""
    os_vif.initialize()
    return str(CONF.os_vif_ovs.ovsdb_connection)


class UnusableRoute(exception.InvalidInput):
    """A route of the user's own choice that no host can set.

    Nova looks for another host after any failure to plug, and tells its user of that alone; what
    is invalid input ends the build, and is told.
    """


class Network:
    """Plugs and unplugs the interfaces of sandboxes."""

    def __init__(self) -> None:
        """Load os-vif's plugins, if nobody has yet."""
        os_vif.initialize()

    def plug(
        self,
        instance: typing.Any,
        network_info: typing.Any,
        pid: int,
        *,
        fresh: bool,
        former: Sequence[sandbox.Address] = (),
    ) -> None:
        """Bring a sandbox's network namespace to what Neutron says.

        What is there and right stays untouched, so that this may be done at any time.

        :param pid: of the pause container's process
        :param former: addresses that it has had, and loses those that it shall not have
        :param fresh: whether nothing has been plugged since the last `unplug`
        :raises nova.exception.VirtualInterfacePlugException: it cannot be
        :raises UnusableRoute: for a route that the kernel refuses
        """
        vifs = list(network_info)
        refused = []
        for vif, interface in zip(vifs, plan(vifs), strict=True):
            request = interface.request(former)
            try:
                self._plug(instance, vif, interface, pid, request, fresh=fresh)
            except UnusableRoute:
                refused.append((vif, interface, request))
        # A gateway may have been the address of a port that came later, and lost it meanwhile.
        for vif, interface, request in refused:
            self._plug(instance, vif, interface, pid, request, fresh=fresh)

    def _plug(
        self,
        instance: typing.Any,
        vif: typing.Any,
        interface: Interface,
        pid: int,
        request: dict[str, typing.Any],
        *,
        fresh: bool,
    ) -> None:
        port = _osvif(vif)
        LOG.debug('Plugging port %s', interface.port_id, instance=instance)
        try:
            owner = os_vif_util.nova_to_osvif_instance(instance)
            if not fresh and not interfaces.device_exists(interface.device):
                # Open vSwitch in userspace would go on using the device that has gone.
                _unplug(port, owner)
            interfaces.plug(pid, interface.device, request)
            os_vif.plug(port, owner)
            if isinstance(port, os_vif.objects.vif.VIFBridge):
                interfaces.enslave(interface.device, port.bridge_name)
        except RouteRefused as error:
            raise UnusableRoute(f'port {interface.port_id}: {error}') from error
        except _FAILURES as error:
            raise exception.VirtualInterfacePlugException(
                f'port {interface.port_id}: {error}'
            ) from error

    def check(self, vif: typing.Any) -> None:
        """Refuse a port that no sandbox can have.

        :raises nova.exception.VirtualInterfacePlugException: it is one
        """
        _osvif(vif)

    def unplug(self, instance: typing.Any, network_info: typing.Any) -> None:
        """Take a sandbox's interfaces and their ports from the host; missing ones are fine.

        :raises nova.exception.VirtualInterfacePlugException: one could not be removed; all
            have been tried
        """
        failed = []
        for vif in network_info:
            try:
                port = _osvif(vif)
            except exception.VirtualInterfacePlugException as error:
                # Nothing of it was ever plugged.
                LOG.debug('Not unplugging: %s', error, instance=instance)
                continue
            LOG.debug('Unplugging port %s', vif['id'], instance=instance)
            try:
                if isinstance(port, os_vif.objects.vif.VIFBridge):
                    interfaces.unplug(device_name(vif))
                _unplug(port, os_vif_util.nova_to_osvif_instance(instance))
            except _FAILURES as error:
                LOG.warning('Unplugging port %s: %s', vif['id'], error, instance=instance)
                failed.append(f'port {vif["id"]}: {error}')
        if failed:
            raise exception.VirtualInterfacePlugException('; '.join(failed))

    def counters(self, pid: int) -> dict[str, dict[str, int]]:
        """Return the traffic counters of a sandbox's interfaces, by MAC address."""
        try:
            found: dict[str, dict[str, int]] = interfaces.counters(pid)
        except _FAILURES as error:
            LOG.debug('Traffic counters of process %s cannot be read: %s', pid, error)
            return {}
        return found


# What can come out of a privileged process, or of os-vif.
_FAILURES = (*FAILURES, os_vif.exception.ExceptionBase)


def _unplug(port: typing.Any, owner: typing.Any) -> None:
    """Have os-vif unplug a port, whose device the kernel may take away meanwhile.

    It does so in its own time after the end of a network namespace, and os-vif, which has just
    seen the device, fails to delete it.
    """
    try:
        os_vif.unplug(port, owner)
    except os_vif.exception.UnplugException as error:
        cause = error.__context__
        gone = isinstance(cause, os_vif.exception.NetworkInterfaceNotFound)
        if not gone and getattr(cause, 'code', None) != errno.ENODEV:  # of netlink
            raise
        os_vif.unplug(port, owner)


def _osvif(vif: typing.Any) -> typing.Any:
    """Return os-vif's model of a port.

    :raises nova.exception.VirtualInterfacePlugException: it is of a kind a sandbox cannot have
    """
    try:
        port = os_vif_util.nova_to_osvif_vif(vif)
    except exception.NovaException as error:
        raise exception.VirtualInterfacePlugException(f'port {vif["id"]}: {error}') from error
    kinds = (os_vif.objects.vif.VIFOpenVSwitch, os_vif.objects.vif.VIFBridge)
    if not isinstance(port, kinds):
        raise exception.VirtualInterfacePlugException(
            f'port {vif["id"]}: a sandbox cannot have an interface of type {vif["type"]}'
        )
    profile = port.port_profile if 'port_profile' in port else None
    if profile is not None and 'create_tap' in profile and profile.create_tap:
        # It would be a tap device, which has no end to put into a namespace.
        profile.create_tap = False
    return port
