"""Sandboxes as Nova knows them: made in the user's name, looked after in the agent's own."""

from __future__ import annotations

import dataclasses
import datetime
import typing

from oslo_log import log as logging

from zun_agent import errors, networks, servers
from zun_agent.flavors import Ask, Flavor, choose, flavor_of
from zun_agent.models import Container
from zun_agent.openstack import Cache, Client, Json, OpenStack, Unanswered
from zun_agent.servers import Server
from zun_virt import sandbox as contract

LOG = logging.getLogger(__name__)

INTENT_KEY = 'zun_intent'
"""Key of the server's metadata that names the intent it was made for."""

OWN_HINTS = frozenset({'sandbox', 'flavor'})
"""Hints that are the agent's; the others are Nova's scheduler's."""

# 2.74: the user may name a host. 2.90: a hostname; 2.94: with a domain.
CREATE_VERSION = '2.74'
HOSTNAME_VERSION = '2.90'
DOMAIN_VERSION = '2.94'

_JOINABLE = frozenset({'ACTIVE', 'BUILD', 'REBOOT', 'HARD_REBOOT', 'PASSWORD'})
_LEAVING_TASKS = frozenset({'deleting', 'soft-deleting', 'powering-off', 'shelving', 'rebuilding'})
_NOT_READY = {
    contract.State.STOPPING: 'is being stopped',
    contract.State.STOPPED: 'is stopped',
    contract.State.PAUSED: 'is paused',
    contract.State.DELETING: 'is being deleted',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What Nova is to be asked for: the body of ``POST /servers``, and its microversion."""

    body: Json
    microversion: str


class Sandboxes:
    """Makes, finds and deletes sandboxes through Nova."""

    def __init__(
        self, conf: typing.Any, local: contract.SandboxStore, cloud: OpenStack | None = None
    ) -> None:
        """Use the services that `conf` leads to.

        :param local: the sandboxes on this host, which may know better than an answer of
            Nova's that is some seconds old
        """
        self._conf = conf.sandbox
        self._defaults = conf.container
        self._local = local
        self._cloud = cloud or OpenStack(conf)
        self._cache = Cache(conf.sandbox.nova_cache_seconds)
        self._elsewhere = Cache(conf.sandbox.nova_cache_seconds)
        self._here = Cache(conf.sandbox.server_cache_seconds)

    # In the user's name

    def plan(self, context: typing.Any, container: Container, *, host: str | None = None) -> Plan:
        """Return what Nova is to be asked for, so that this container has a sandbox.

        :param container: an intent; its security groups are replaced by their ids
        :param host: on which it shall be, as an administrator may ask
        :raises errors.NoSandboxFlavor: no flavor holds what is asked
        :raises errors.AgentError: an image, network or security group is not to be had
        """
        try:
            flavor = self._choose(context, container)
        except errors.NoSandboxFlavor:
            # There may be one since we asked, some seconds ago.
            self._cache.drop(('flavors', context.project_id))
            flavor = self._choose(context, container)
        neutron = self._cloud.as_user(context, 'network')
        if container.security_groups:
            container.security_groups = networks.security_groups(
                neutron, context.project_id, container.security_groups
            )
        return build_request(
            container,
            flavor_id=flavor.id,
            image_id=self._image(context),
            nets=self._networks(context, neutron, container),
            host=host,
        )

    def create(self, context: typing.Any, plan: Plan) -> str:
        """Ask Nova for a sandbox in the user's name, and return the server's id.

        :raises Unanswered: Nova may have made it or not; `intents.sweep` will tell
        :raises errors.NovaError: the same
        :raises errors.AgentError: Nova refused, in Nova's words
        """
        nova = self._cloud.as_user(context, 'compute')
        try:
            answer = nova.post('/servers', plan.body, microversion=plan.microversion)
        except errors.Conflict as error:
            raise errors.NetworkConflict(str(error)) from error
        except (errors.NotFound, errors.Invalid) as error:
            # A network or flavor that was there some seconds ago may be what is wrong.
            self._cache.forget(context.project_id)
            raise errors.Invalid(str(error)) from error
        try:
            return str(answer['server']['id'])
        except KeyError as error:
            raise Unanswered('Nova answered a request for a server without one.') from error

    def resolve(self, context: typing.Any, ident: str) -> Server:
        """Return the sandbox that the user names by id or name, fit to be joined.

        :raises errors.SandboxNotFound: the user's project has no such server
        :raises errors.SandboxConflict: it is ambiguous, stopped, locked or being deleted
        :raises errors.SandboxNotUsable: it is a virtual machine
        """
        key = (ident, context.project_id)
        # A name may come to be another server's, and of one elsewhere nothing here tells the end.
        here = servers.is_uuid(ident) and self._local.directory(ident).exists()
        cache = self._here if here else self._elsewhere
        server = cache.get(key, lambda: self._usable(context, ident))
        record = self._record(server.id)
        if record is None and server.is_here:  # it was, some seconds ago
            cache.drop(key)
            server = cache.get(key, lambda: self._usable(context, ident))
            record = self._record(server.id)
        if record is not None:
            try:
                _check_local(server, record)
            except errors.SandboxConflict:
                cache.drop(key)
                raise
        return server

    def limits(self, server: Server) -> contract.Limits:
        """Return what all containers of this sandbox may use together."""
        record = self._record(server.id)
        return record.limits if record is not None else servers.limits(server)

    # With the agent's own credentials

    def server(self, server_id: str) -> Server | None:
        """Return what Nova says of the server now; None when it says that there is none.

        :raises errors.ServiceUnavailable: Nova does not say
        """
        nova = self._cloud.as_service('compute')
        try:
            found = nova.get(f'/servers/{server_id}', microversion=servers.READ_VERSION)
        except errors.NotFound:
            return None
        server = servers.read(found['server'])
        return None if server.status == 'DELETED' else server

    def limits_of(self, server_id: str) -> contract.Limits:
        """Return what all containers of this sandbox may use together.

        :raises errors.SandboxNotFound: it is gone
        :raises errors.ServiceUnavailable: it is on another host, and Nova does not say
        """
        record = self._record(server_id)
        if record is not None:
            return record.limits
        server = self.server(server_id)
        if server is None:
            raise errors.SandboxNotFound(f'Sandbox {server_id} could not be found.')
        return servers.limits(server)

    def server_host(self, server_id: str) -> str | None:
        """Return the host on which Nova has the server; None for none, or no server.

        :raises errors.ServiceUnavailable: Nova does not say
        """
        server = self.server(server_id)
        return server.host if server else None

    def server_gone(self, server_id: str) -> bool:
        """Tell whether Nova says that the server is deleted.

        :raises errors.ServiceUnavailable: Nova does not say
        """
        return self.server(server_id) is None

    def delete_server(self, server_id: str, project_id: str) -> bool:
        """Have Nova delete a server of this project; `server_gone` tells when it is.

        :returns: whether it is gone already
        :raises errors.ServiceUnavailable: Nova does not answer
        :raises errors.Forbidden: the server is another project's, or our credentials lack
        """
        server = self.server(server_id)
        if server is None:
            return True
        if server.project_id != project_id:
            raise errors.Forbidden(f'Server {server_id} is not of project {project_id}.')
        nova = self._cloud.as_service('compute')
        try:
            if server.status == 'SOFT_DELETED':
                # The cloud keeps deleted servers for a while; ours hold a user's addresses.
                nova.post(f'/servers/{server_id}/action', {'forceDelete': None})
            elif server.task_state != 'deleting':
                LOG.info('sandbox %s: asking Nova to delete the server', server_id)
                nova.delete(f'/servers/{server_id}')
        except errors.NotFound:
            return True
        return False

    def servers_of_intent(self, intent: Container) -> list[Server]:
        """Return the servers that Nova made for an intent; more than one is not expected.

        :raises errors.ServiceUnavailable: Nova does not say
        """
        nova = self._cloud.as_service('compute')
        since = intent.created_at.replace(tzinfo=datetime.UTC) - datetime.timedelta(minutes=5)
        found = nova.get(
            '/servers/detail',
            {
                'all_tenants': 1,
                'project_id': intent.project_id,
                'name': servers.exactly(intent.name),
                'changes-since': since.isoformat(),
            },
            microversion=servers.READ_VERSION,
        )
        return [
            server
            for server in map(servers.read, found['servers'])
            if server.metadata.get(INTENT_KEY) == intent.intent_id
            and server.project_id == intent.project_id
            and server.status != 'DELETED'
        ]

    def addresses(self, sandbox: contract.Sandbox) -> dict[str, list[Json]]:
        """Return a sandbox's addresses as the Zun API shows them.

        :raises errors.ServiceUnavailable: Neutron does not say which subnets they are of
        """
        ports = self._cloud.as_service('network').get(
            '/ports', {'device_id': sandbox.instance_id, 'fields': ['id', 'fixed_ips']}
        )['ports']
        return networks.addresses(sandbox, ports)

    # The parts of a request for a sandbox

    def _choose(self, context: typing.Any, container: Container) -> Flavor:
        return choose(
            self._flavors(context),
            Ask(cpu=container.cpu, memory=container.memory, disk=container.disk),
            trait=self._conf.trait,
            named=container.hints.get('flavor'),
            default_cpu=self._defaults.default_cpu,
            default_memory=self._defaults.default_memory,
        )

    def _networks(
        self, context: typing.Any, neutron: Client, container: Container
    ) -> list[dict[str, str]]:
        if container.nets:
            return networks.requested(neutron, container.nets)
        project_id = context.project_id
        return self._cache.get(
            ('network', project_id), lambda: networks.default(neutron, project_id)
        )

    def _flavors(self, context: typing.Any) -> list[Flavor]:
        nova = self._cloud.as_user(context, 'compute')

        def ask() -> list[Flavor]:
            flavors: list[Flavor] = []
            query: dict[str, object] = {}
            while True:
                found = nova.get('/flavors/detail', query, microversion=servers.READ_VERSION)
                flavors += map(flavor_of, found['flavors'])
                if not found.get('flavors_links') or not found['flavors']:
                    return flavors
                query = {'marker': found['flavors'][-1]['id']}

        return self._cache.get(('flavors', context.project_id), ask)

    def _image(self, context: typing.Any) -> str:
        wanted = self._conf.image
        glance = self._cloud.as_user(context, 'image')

        def ask() -> str:
            if servers.is_uuid(wanted):
                try:
                    return str(glance.get(f'/images/{wanted}')['id'])
                except errors.NotFound:
                    pass
            found = glance.get('/images', {'name': wanted, 'status': 'active'})['images']
            # Anyone may name an image of his own so; the operator's is public.
            found.sort(key=lambda image: (image['visibility'] != 'public', image['created_at']))
            if not found:
                raise errors.SandboxImageMissing(
                    f'Glance has no image {wanted!r} that this project may use. The operator '
                    'uploads it, or names another with [sandbox] image.'
                )
            return str(found[0]['id'])

        return self._cache.get(('image', context.project_id), ask)

    # The parts of the search for a sandbox

    def _usable(self, context: typing.Any, ident: str) -> Server:
        nova = self._cloud.as_user(context, 'compute')
        server = servers.find(nova, context.project_id, ident)
        if not self._is_sandbox(context, server):
            raise errors.SandboxNotUsable(
                f'Server {ident} is no sandbox: its flavor does not require the trait '
                f'{self._conf.trait}, nor does its image.'
            )
        state = server.task_state if server.task_state in _LEAVING_TASKS else server.status
        if state not in _JOINABLE:
            raise errors.SandboxConflict(f'Sandbox {ident} takes no container: it is {state}.')
        if server.locked:
            raise errors.SandboxConflict(f'Sandbox {ident} takes no container: it is locked.')
        return dataclasses.replace(server, is_here=self._record(server.id) is not None)

    def _is_sandbox(self, context: typing.Any, server: Server) -> bool:
        """Tell a sandbox from a virtual machine.

        Its flavor says so, or its image does where an operator marks those only. Which
        sandboxes are on this host is known for sure.
        """
        if server.flavor.requires(self._conf.trait) or self._record(server.id) is not None:
            return True
        if server.image_id is None:
            return False
        try:
            image = self._cloud.as_user(context, 'image').get(f'/images/{server.image_id}')
        except (errors.NotFound, errors.Forbidden):
            return False
        return (
            image.get(f'trait:{self._conf.trait}') == 'required'
            or image.get('img_hv_type') == 'docker'
        )

    def _record(self, server_id: str) -> contract.Sandbox | None:
        try:
            return self._local.read(server_id)
        except contract.SandboxError as error:
            LOG.warning('sandbox %s: its record cannot be used, not touched: %s', server_id, error)
            raise errors.SandboxConflict(
                f'The record of sandbox {server_id} on its host cannot be read.'
            ) from error


def build_request(
    container: Container,
    *,
    flavor_id: str,
    image_id: str,
    nets: list[dict[str, str]],
    host: str | None = None,
) -> Plan:
    """Return the request for a container's sandbox."""
    server: Json = {
        'name': container.name,
        'flavorRef': flavor_id,
        'imageRef': image_id,
        'networks': nets,
        'metadata': {INTENT_KEY: container.intent_id},
    }
    version = CREATE_VERSION
    if container.hostname:
        server['hostname'] = container.hostname
        version = DOMAIN_VERSION if '.' in container.hostname else HOSTNAME_VERSION
    if container.security_groups:
        server['security_groups'] = [{'name': group} for group in container.security_groups]
    if container.availability_zone:
        server['availability_zone'] = container.availability_zone
    if host:
        server['host'] = host
    body: Json = {'server': server}
    if others := {key: value for key, value in container.hints.items() if key not in OWN_HINTS}:
        body['os:scheduler_hints'] = others
    return Plan(body=body, microversion=version)


def _check_local(server: Server, record: contract.Sandbox) -> None:
    """Refuse what this host knows better than Nova's answer of some seconds ago."""
    if record.project_id != server.project_id:
        raise errors.SandboxNotFound(f'Sandbox {server.id} could not be found.')
    if record.state in _NOT_READY:
        raise errors.SandboxConflict(
            f'Sandbox {server.name} takes no container: it {_NOT_READY[record.state]}.'
        )
    if record.held:
        raise errors.SandboxConflict(
            f'Sandbox {server.name} takes no container: it is being rescued.'
        )
