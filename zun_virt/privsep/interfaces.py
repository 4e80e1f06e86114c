"""Network devices and namespaces of sandboxes, as root."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import socket
import struct
import threading
import typing
from collections.abc import Callable, Iterator, Sequence

import pyroute2

from zun_virt.privsep import PrivilegedError, RouteRefused, network

_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_IFA_F_NODAD = 0x02
_RT_SCOPE_LINK = 253
_RTNH_F_ONLINK = 4
_RTPROT_BOOT = 3
_NOWHERE = {socket.AF_INET: bytes(4), socket.AF_INET6: bytes(16)}

_T = typing.TypeVar('_T')


@network.entrypoint
def plug(pid: int, device: str, interface: dict[str, typing.Any]) -> str:
    """Give a network namespace the interface, and what is missing of its configuration.

    What is there already, with the right MAC address, is kept: a sandbox that runs
    loses no packet.

    :param pid: of a process in the namespace
    :param device: name of the end of the veth pair that stays on the host
    :param interface: ``mac``, ``mtu`` (bytes, or None), ``addresses`` (with prefix length),
        ``stale`` (addresses that it had and shall not have), ``routes`` (pairs of destination
        and gateway, the latter None for a direct one), ``accept_ra``
    :returns: the name of the interface in the namespace
    :raises RouteRefused: the kernel takes no such route
    :raises PrivilegedError: the namespace has gone
    :raises pyroute2.NetlinkError: the kernel refused something else
    """
    with _namespace(pid) as descriptor:
        links = _run_inside(descriptor, _links)
        name = links.get(interface['mac'])
        if name is None or not device_exists(device):
            name = next(f'eth{n}' for n in range(1024) if f'eth{n}' not in links.values())
            _make_pair(descriptor, device, name, interface)
        _run_inside(descriptor, lambda: _configure(name, interface))
    return name


@network.entrypoint
def unplug(device: str) -> None:
    """Remove a device from the host; one that is gone is fine.

    :param device: its name; the other end of a veth pair goes with it
    """
    with pyroute2.IPRoute() as route:
        for index in route.link_lookup(ifname=device):
            with _ignored(errno.ENODEV):
                route.link('del', index=index)


@network.entrypoint
def enslave(device: str, bridge: str) -> None:
    """Make the device a port of a Linux bridge.

    :raises PrivilegedError: one of the two does not exist
    """
    with pyroute2.IPRoute() as route:
        ports, bridges = route.link_lookup(ifname=device), route.link_lookup(ifname=bridge)
        if not ports or not bridges:
            raise PrivilegedError(f'{device} or bridge {bridge} does not exist')
        route.link('set', index=ports[0], master=bridges[0])


@network.entrypoint
def counters(pid: int) -> dict[str, dict[str, int]]:
    """Return the traffic counters of a namespace's interfaces, by MAC address.

    :raises PrivilegedError: the namespace has gone
    """
    with _namespace(pid) as descriptor:
        return _run_inside(descriptor, _counters)


def device_exists(device: str) -> bool:
    """Return whether this host has a network device of that name; takes no privilege."""
    return pathlib.Path('/sys/class/net', device).exists()


@contextlib.contextmanager
def _namespace(pid: int) -> Iterator[int]:
    try:
        descriptor = os.open(f'/proc/{int(pid)}/ns/net', os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise PrivilegedError(f'process {pid} has ended') from error
    try:
        # The number of a sandbox's process that has ended may be another's by now.
        if os.path.samestat(os.fstat(descriptor), pathlib.Path('/proc/self/ns/net').stat()):
            raise PrivilegedError(f'process {pid} is in the network of the host')
        yield descriptor
    finally:
        os.close(descriptor)


def _run_inside(namespace: int, function: Callable[[], _T]) -> _T:
    """Run the function in a thread of its own, which takes the namespace with it to its end.

    The daemon's threads serve one call after another: none may stay in a namespace.
    """
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _enter(namespace)
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it belongs
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(namespace: int) -> None:
    """Take this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise PrivilegedError(f'setns: {os.strerror(ctypes.get_errno())}')


def _links() -> dict[str, str]:
    """Return the interfaces of this thread's namespace: names by MAC address."""
    with pyroute2.IPRoute() as route:
        return {
            link.get_attr('IFLA_ADDRESS') or '': link.get_attr('IFLA_IFNAME')
            for link in route.get_links()
        }


def _make_pair(namespace: int, device: str, name: str, interface: dict[str, typing.Any]) -> None:
    peer: dict[str, typing.Any] = {
        'ifname': name,
        'address': interface['mac'],
        'net_ns_fd': namespace,
    }
    extra = {}
    if interface['mtu']:
        extra['mtu'] = peer['mtu'] = interface['mtu']
    with pyroute2.IPRoute() as route:
        for index in route.link_lookup(ifname=device):
            # Its other end is elsewhere, or has another address.
            route.link('del', index=index)
        route.link('add', ifname=device, kind='veth', peer=peer, **extra)
        index = route.link_lookup(ifname=device)[0]
        # The host takes no part in the sandbox's network, so it gets no address there.
        with contextlib.suppress(FileNotFoundError):
            _write(f'/proc/sys/net/ipv6/conf/{device}/disable_ipv6', '1')
        route.link('set', index=index, state='up')


def _configure(name: str, interface: dict[str, typing.Any]) -> None:
    """Bring this thread's namespace to what `interface` says."""
    # Or the addresses of a subnet all go with the first of them.
    _write(f'/proc/sys/net/ipv4/conf/{name}/promote_secondaries', '1')
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        for key, value in _sysctls(interface):
            _write(f'/proc/sys/net/ipv6/conf/{name}/{key}', value)
    _disable_transmit_checksum(name)
    with pyroute2.IPRoute() as route:
        index = route.link_lookup(ifname=name)[0]
        loopback = route.link_lookup(ifname='lo')[0]
        if interface['mtu']:
            route.link('set', index=index, mtu=interface['mtu'])
        route.link('set', index=loopback, state='up')
        route.link('set', index=index, state='up')
        _set_addresses(route, index, interface['addresses'], interface['stale'])
        _remove_routes(route, index, {destination for destination, _ in interface['routes']})
        for destination, gateway in interface['routes']:
            _set_route(route, index, destination, gateway)


def _sysctls(interface: dict[str, typing.Any]) -> list[tuple[str, str]]:
    """Return IPv6 settings: addresses are Neutron's alone and can be used at once."""
    return [
        ('disable_ipv6', '0'),
        ('accept_dad', '0'),
        ('dad_transmits', '0'),
        ('autoconf', '0'),
        ('accept_ra', '1' if interface['accept_ra'] else '0'),
    ]


def _set_addresses(
    route: pyroute2.IPRoute, index: int, wanted: Sequence[str], stale: Sequence[str]
) -> None:
    present = {
        f'{entry.get_attr("IFA_ADDRESS")}/{entry["prefixlen"]}'
        for entry in route.get_addr(index=index)
        if entry['scope'] == 0
    }
    for address in wanted:
        if address not in present:
            text, _, length = address.partition('/')
            flags = {'flags': _IFA_F_NODAD} if ':' in text else {}
            with _ignored(errno.EEXIST):
                route.addr('add', index=index, address=text, prefixlen=int(length), **flags)
    for address in present.intersection(stale):
        text, _, length = address.partition('/')
        with _ignored(errno.EADDRNOTAVAIL):
            route.addr('del', index=index, address=text, prefixlen=int(length))


def _remove_routes(route: pyroute2.IPRoute, index: int, wanted: set[str]) -> None:
    """Remove routes that were set here and are not wanted any more.

    The kernel's own, and those learnt from a router, have another origin.
    """
    for entry in route.get_routes(oif=index, proto=_RTPROT_BOOT):
        family = entry['family']
        place = entry.get_attr('RTA_DST') or socket.inet_ntop(family, _NOWHERE[family])
        destination = f'{place}/{entry["dst_len"]}'
        if destination not in wanted:
            request = {'oif': index, 'family': family, 'proto': _RTPROT_BOOT}
            with _ignored(errno.ESRCH):
                route.route('del', dst=destination, scope=entry['scope'], **request)


def _set_route(route: pyroute2.IPRoute, index: int, destination: str, gateway: str | None) -> None:
    family = socket.AF_INET6 if ':' in destination else socket.AF_INET
    request: dict[str, typing.Any] = {
        'dst': destination,
        'oif': index,
        'family': family,
        'proto': _RTPROT_BOOT,
    }
    if gateway:
        # Neutron allows a gateway outside of the subnet; it is on this link all the same.
        request |= {'gateway': gateway, 'flags': _RTNH_F_ONLINK}
    else:
        request['scope'] = _RT_SCOPE_LINK
    try:
        route.route('replace', **request)
    except pyroute2.NetlinkError as error:
        if error.code not in (errno.EINVAL, errno.ENETUNREACH, errno.EHOSTUNREACH):
            raise  # it is not the route
        way = f'route to {destination} by {gateway or "the link"}'
        raise RouteRefused(f'{way}: {os.strerror(error.code)}') from error


def _disable_transmit_checksum(name: str) -> None:
    """Make the kernel fill in checksums itself.

    Open vSwitch in userspace takes packets as they are: TCP from a veth pair with
    offload reaches the other side with a wrong checksum.
    """
    value = array.array('I', [_ETHTOOL_STXCSUM, 0])
    request = struct.pack('16sP16x', name.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, request)


def _counters() -> dict[str, dict[str, int]]:
    fields = ('bytes', 'packets', 'errors', 'dropped')
    with pyroute2.IPRoute() as route:
        return {
            link.get_attr('IFLA_ADDRESS'): {
                f'{way}_{field}': (link.get_attr('IFLA_STATS64') or {}).get(f'{way}_{field}', 0)
                for way in ('rx', 'tx')
                for field in fields
            }
            for link in route.get_links()
            if link.get_attr('IFLA_IFNAME') != 'lo'
        }


@contextlib.contextmanager
def _ignored(code: int) -> Iterator[None]:
    try:
        yield
    except pyroute2.NetlinkError as error:
        if error.code != code:
            raise


def _write(path: str, value: str) -> None:
    # A file object would report a refused value only when it is closed.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
