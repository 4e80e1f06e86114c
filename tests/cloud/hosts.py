"""The sandbox hosts of the cloud: the machine itself, and the one of ``up --hosts 2``."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import subprocess
import typing

import docker
import docker.models.containers

from tests.cloud import settings
from zun_virt import sandbox as contract

Container = docker.models.containers.Container


@functools.cache
def _engine(url: str) -> docker.DockerClient:
    return docker.DockerClient(base_url=url, timeout=30)


@dataclasses.dataclass(frozen=True)
class SandboxHost:
    """One sandbox host.

    :ivar name: as Nova, Neutron and the agents call it
    :ivar docker_url: where its Docker Engine listens
    :ivar state_path: what its driver and its agent share
    :ivar agent: URL of its agent
    :ivar suffix: of the names of its services in ``tools/allinone status``
    :ivar enter: words before a command that shall run there
    :ivar groups: its own part of each hierarchy of control groups
    """

    name: str
    docker_url: str
    state_path: pathlib.Path
    agent: str
    suffix: str
    enter: tuple[str, ...]
    groups: str

    def engine(self) -> docker.DockerClient:
        """Docker, as the driver and the agent of that host see it."""
        return _engine(self.docker_url)

    def command(self, *arguments: str) -> str:
        """Run a command there, and return its output."""
        result = subprocess.run(
            [*self.enter, *arguments], capture_output=True, text=True, timeout=30
        )
        assert result.returncode == 0, f'{" ".join(arguments)}: {result.stderr}'
        return result.stdout

    def sandboxes(self) -> contract.SandboxStore:
        """Its sandbox directories."""
        return contract.SandboxStore(self.state_path)

    def containers(self, sandbox_id: str, role: str | None = None) -> list[Container]:
        """Return what its Docker has of a sandbox, running or not."""
        labels = [f'{contract.LABEL_SANDBOX}={sandbox_id}']
        if role:
            labels.append(f'{contract.LABEL_ROLE}={role}')
        return self.engine().containers.list(
            all=True, filters={'label': labels}, ignore_removed=True
        )

    def control_groups(self) -> set[str]:
        """Return the control groups of its sandboxes, in every hierarchy."""
        found = pathlib.Path('/sys/fs/cgroup').glob(f'*/{self.groups}zun/*')
        return {str(path) for path in found if path.is_dir()}

    def memory_limit(self, sandbox_id: str) -> int:
        """Return the limit of a sandbox's control group, in bytes, of version 1."""
        digits = sandbox_id.replace('-', '')
        (group,) = (path for path in self.control_groups() if digits in path and '/memory/' in path)
        return int(pathlib.Path(group, 'memory.limit_in_bytes').read_text())

    def switch_ports(self) -> set[str]:
        """Return the ports of its switch that are for sandboxes."""
        columns = ('--format=json', '--columns=name,type', 'find', 'Interface')
        output = self.command('ovs-vsctl', '--timeout=10', *columns)
        return {name for name, _ in json.loads(output)['data'] if name.startswith('tap')}

    def links(self) -> set[str]:
        """Return the devices in its network namespace that ports may have made."""
        found = json.loads(self.command('ip', '-json', 'link', 'show'))
        return {one['ifname'] for one in found if one['ifname'].startswith('tap')}


def first() -> SandboxHost:
    """The machine itself."""
    conf = settings.load()
    return SandboxHost(
        name=conf.host,
        docker_url=conf['DOCKER_URL'],
        state_path=conf.state_path,
        agent=conf.endpoint('AGENT'),
        suffix='',
        enter=(),
        groups='',
    )


def second() -> SandboxHost:
    """The host in namespaces of its own, whether it is there or not."""
    conf = settings.load()
    return SandboxHost(
        name=conf['SECOND_HOST'],
        docker_url=conf['SECOND_DOCKER'],
        state_path=pathlib.Path(conf['SECOND_STATE']),
        agent=f'http://{conf["LINK_THERE"]}:{conf["AGENT_PORT"]}',
        suffix='-2',
        enter=(conf['ON_SECOND'],),
        groups='zun-second/',
    )


def there_are_two() -> bool:
    """Whether the second host was added."""
    return pathlib.Path(settings.load()['STATE'], 'done', 'second-host').exists()


def second_in_service(compute: typing.Any, wanted: bool) -> None:
    """Let the second host, where there is one, be chosen for new servers, or not.

    :param compute: Nova, as the operator's SDK asks it
    """
    if not there_are_two():
        return
    for service in compute.services(binary='nova-compute', host=second().name):
        change = compute.enable_service if wanted else compute.disable_service
        change(service)


def look() -> dict[str, set[str]]:
    """Return everything on the second host that a sandbox may leave behind, by kind."""
    if not there_are_two():
        return {}
    host = second()
    found = host.engine().containers.list(all=True, ignore_removed=True)
    seen = {
        'Docker containers': {f'{one.name} ({one.status})' for one in found},
        'control groups': host.control_groups(),
        'ports of the switch': host.switch_ports(),
        'network devices': host.links(),
    }
    for name in ('sandboxes', 'locks', 'volumes', 'config-drives'):
        directory = host.state_path / name
        seen[name] = {str(one) for one in directory.iterdir()} if directory.is_dir() else set()
    return {f'{what} of {host.name}': there for what, there in seen.items()}
