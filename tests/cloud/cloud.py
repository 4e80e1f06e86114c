"""What tests make in the cloud, and see to it that it goes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import typing
import uuid
from collections.abc import Callable, Iterator

import openstack
from zunclient.common.apiclient import exceptions as zun_errors

from tests.cloud import host
from tests.cloud.users import NotFound, User
from tests.cloud.waiting import on_changes, wait_until

SANDBOX_IMAGE = 'kubernetes/pause'
SMALL = 'sandbox.tiny'  # one core, 128 MiB
GONE = 90.0  # seconds within which a container is gone, whatever was done to its agent
SERVER = 90.0  # seconds within which a server must have done what it was asked for


MADE: set[str] = set()
"""Ids, as digits only, of servers, containers, volumes and ports that the tests made."""


@dataclasses.dataclass
class Workspace:
    """What a test makes as one user; all of it goes when the workspace is closed."""

    user: User
    admin: User
    _containers: list[str] = dataclasses.field(default_factory=list)
    _servers: list[str] = dataclasses.field(default_factory=list)
    _rest: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    def name(self, of: str = 'thing') -> str:
        """Return a name that nothing else has."""
        return f'{of}-{uuid.uuid4().hex[:8]}'

    def create(
        self, image: str = 'alpine', *, sandbox: str | None = None, **spec: typing.Any
    ) -> str:
        """Ask for a container that is not started; returns its id at once."""
        return self._make(self.user.containers.create, image, sandbox, spec)

    def run(self, image: str = 'alpine', *, sandbox: str | None = None, **spec: typing.Any) -> str:
        """Ask for a container that is started; returns its id at once."""
        return self._make(self.user.containers.run, image, sandbox, spec)

    def _make(
        self,
        make: Callable[..., typing.Any],
        image: str,
        sandbox: str | None,
        spec: dict[str, typing.Any],
    ) -> str:
        if sandbox:
            spec['hints'] = {**spec.get('hints', {}), 'sandbox': sandbox}
        container = make(image=image, **spec)
        self.adopt(container.uuid)
        return str(container.uuid)

    def adopt(self, container_id: str) -> str:
        """See to it that a container made in another way goes, too."""
        self._containers.append(container_id)
        MADE.update(host.ids(container_id))
        return container_id

    def adopt_server(self, server_id: str) -> str:
        """See to it that a server made in another way goes, too."""
        self._servers.append(server_id)
        MADE.update(host.ids(server_id))
        return server_id

    def running(self, image: str = 'alpine', **spec: typing.Any) -> str:
        """Make a container, wait until it runs, and return its id.

        Without a command it does nothing until it is stopped, and then stops at once.
        """
        if image == 'alpine':
            spec.setdefault('command', ['sh', '-c', 'trap "exit 0" TERM; sleep 3600 & wait'])
        container_id = self.run(image, **spec)
        self.user.wait(container_id, 'Running')
        return container_id

    def server(
        self,
        name: str | None = None,
        *,
        flavor: str = SMALL,
        image: str = SANDBOX_IMAGE,
        networks: list[dict[str, str]] | str | None = None,
        host: str | None = None,
        wait: bool = True,
        **spec: typing.Any,
    ) -> str:
        """Make a server, a sandbox unless said otherwise, and return its id.

        :param networks: as Nova takes them; the network `private` by default
        :param host: the compute host on which it shall be, which only an operator may say
        """
        if networks is None:
            networks = [{'uuid': network_id(self.user, 'private')}]
        compute = self.user.compute
        if host:
            compute = self.admin.sdk.connect_as_project(self.user.name).compute
            spec['availability_zone'] = f'nova:{host}'
        server = compute.create_server(
            name=name or self.name('box'),
            image_id=image_id(self.user, image),
            flavor_id=flavor_id(self.user, flavor),
            networks=networks,
            **spec,
        )
        self.adopt_server(server.id)
        if wait:
            self.until_server(server.id, 'ACTIVE')
        return str(server.id)

    def servers(self, *of: dict[str, typing.Any]) -> list[str]:
        """Make servers side by side, each as `server` would of these arguments: their ids."""
        made = [self.server(**spec, wait=False) for spec in of]
        for server_id in made:
            self.until_server(server_id, 'ACTIVE')
        return made

    def until_server(self, server_id: str, status: str, timeout: float = SERVER) -> None:
        """Wait until a server has that status and Nova is not at work on it."""

        def arrived() -> bool:
            server = self.user.compute.get_server(server_id)
            fault = getattr(server, 'fault', None)
            assert server.status != 'ERROR' or status == 'ERROR', f'server in ERROR: {fault}'
            return server.status == status and not server.task_state

        wait_until(
            f'server {server_id} {status}',
            on_changes(functools.partial(host.server_at_rest, server_id), arrived),
            timeout=timeout,
            interval=0.1,
            explain=lambda: (
                f'{self.user.compute.get_server(server_id)}\n' + host.describe([server_id])
            ),
        )

    def delete_server(self, server_id: str) -> None:
        """Delete a server, and wait until Nova knows it no more."""
        self.user.compute.delete_server(server_id)
        wait_server_gone(self.user, server_id)

    def group(self, *rules: dict[str, typing.Any]) -> str:
        """Make a security group that lets in what the rules say; returns its id."""
        made = self.user.network.create_security_group(name=self.name('group'))
        self._rest.callback(self.user.network.delete_security_group, made.id)
        for rule in rules:
            self.allow(made.id, **rule)
        return str(made.id)

    def allow(self, group_id: str, **rule: typing.Any) -> str:
        """Let something in; returns the rule's id."""
        made = self.user.network.create_security_group_rule(
            security_group_id=group_id, direction='ingress', **rule
        )
        return str(made.id)

    def new_network(
        self, cidr: str, *, mtu: int | None = None, vlan_of: str = '', **subnet: typing.Any
    ) -> str:
        """Make a network with one subnet; returns the network's id.

        :param vlan_of: the physical network of which it shall be a VLAN, where an operator makes it
        """
        spec: dict[str, typing.Any] = {'mtu': mtu} if mtu else {}
        maker = self.user
        if vlan_of:
            maker = self.admin
            spec['project_id'] = self.user.project_id
            spec['provider:network_type'] = 'vlan'
            spec['provider:physical_network'] = vlan_of
        made = maker.network.create_network(name=self.name('net'), **spec)
        self._rest.callback(self._delete_network, made.id)
        self.new_subnet(made.id, cidr, **subnet)
        return str(made.id)

    def new_subnet(self, network: str, cidr: str, **spec: typing.Any) -> str:
        """Add a subnet to a network, without DHCP, of which a sandbox has no need.

        :returns: its id
        """
        version = 6 if ':' in cidr else 4
        spec.setdefault('is_dhcp_enabled', False)
        made = self.user.network.create_subnet(
            network_id=network, cidr=cidr, ip_version=version, **spec
        )
        return str(made.id)

    def _delete_network(self, network: str) -> None:
        wait_until(
            f'network {network} deleted',
            lambda: _try(lambda: self.user.network.delete_network(network)),
            timeout=30,
            interval=1,
        )

    def port(self, network: str, **spec: typing.Any) -> typing.Any:
        """Make a port of the user's own."""
        made = self.user.network.create_port(network_id=network, name=self.name('port'), **spec)
        self._rest.callback(self.user.network.delete_port, made.id)
        MADE.update(host.ids(made.id))
        return made

    def finally_do(self, act: Callable[..., object], *arguments: typing.Any) -> None:
        """Do that when the workspace is closed, after containers and servers are gone."""
        self._rest.callback(act, *arguments)

    def close(self) -> None:
        """Remove everything: containers, then servers, then the rest, last made first."""
        with self._rest:
            containers, self._containers = self._containers[::-1], []
            try:
                self.remove(containers)
            finally:
                self._remove_servers()

    def _remove_servers(self) -> None:
        servers, self._servers = self._servers, []
        for server_id in servers:
            self.admin.compute.delete_server(server_id)
        for server_id in servers:
            wait_server_gone(self.admin, server_id)

    def remove(self, containers: list[str]) -> None:
        """Remove containers by force; those that live in another's sandbox first."""
        for owners in (False, True):
            these = [one for one in containers if host.owns_sandbox(one) is owners]
            for container_id in these:
                with contextlib.suppress(NotFound):
                    self._force(container_id)
            for container_id in these:
                self.admin.wait(container_id, 'gone', timeout=GONE)

    def _force(self, container_id: str) -> None:
        try:
            self.admin.containers.delete(container_id, force=True, all_projects=True)
        except zun_errors.Conflict:  # what is paused is not even removed by force
            self.user.containers.unpause(container_id)
            self.user.wait(container_id, 'Running', 'Stopped')
            self.admin.containers.delete(container_id, force=True, all_projects=True)


@contextlib.contextmanager
def workspace(user: User, admin: User) -> Iterator[Workspace]:
    """Give a workspace, and remove what was made in it."""
    space = Workspace(user, admin)
    try:
        yield space
    finally:
        space.close()


def _try(act: Callable[[], object]) -> bool:
    try:
        act()
    except openstack.exceptions.ConflictException:
        return False
    return True


# No name is used again in a run, and what has one is found only once.
@functools.cache
def image_id(user: User, name: str) -> str:
    """Return the id of the user's image of that name."""
    return str(user.image.find_image(name, ignore_missing=False).id)


@functools.cache
def flavor_id(user: User, name: str) -> str:
    """Return the id of the flavor of that name."""
    return str(user.compute.find_flavor(name, ignore_missing=False).id)


@functools.cache
def network_id(user: User, name: str) -> str:
    """Return the id of the user's network of that name."""
    return str(user.network.find_network(name, ignore_missing=False).id)


def gateway(user: User, network: str = 'private') -> str:
    """Return the address of a network's router."""
    (subnet,) = user.network.subnets(network_id=network_id(user, network), ip_version=4)
    return str(subnet.gateway_ip)


def address(user: User, server_id: str, version: int = 4) -> str:
    """Return the first fixed address of a server."""
    for port in user.network.ports(device_id=server_id):
        for fixed in port.fixed_ips:
            if (':' in fixed['ip_address']) == (version == 6):
                return str(fixed['ip_address'])
    raise AssertionError(f'server {server_id} has no address of version {version}')


def shown_addresses(user: User, container_id: str) -> dict[str, typing.Any]:
    """Return the addresses that the container API shows, once Neutron has told their subnets.

    A container's start does not wait for that.
    """

    def known() -> dict[str, typing.Any] | None:
        shown: dict[str, typing.Any] = user.show(container_id).addresses
        entries = [entry for entries in shown.values() for entry in entries]
        return shown if entries and all(entry['subnet_id'] for entry in entries) else None

    found = wait_until('the addresses with their subnets', known, timeout=10)
    assert found is not None
    return found


def wait_server_gone(user: User, server_id: str, timeout: float = SERVER) -> None:
    """Wait until Nova knows a server no more."""

    def gone() -> bool:
        try:
            user.compute.get_server(server_id)  # DELETED for a moment, and still on its host
        except openstack.exceptions.NotFoundException:
            return True
        return False

    wait_until(
        f'server {server_id} deleted',
        on_changes(functools.partial(host.server_at_rest, server_id), gone),
        timeout=timeout,
        interval=0.1,
        explain=lambda: host.describe([server_id]),
    )
