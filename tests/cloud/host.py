"""What is on the host and in the databases: the truth behind what the APIs say."""

from __future__ import annotations

import functools
import glob
import json
import os
import pathlib
import re
import subprocess
import time
import typing
from collections.abc import Iterable

import docker
import docker.models.containers
import pymysql

from tests.cloud import hosts, settings
from zun_virt import sandbox as contract

Container = docker.models.containers.Container

CONTROL_GROUPS = pathlib.Path('/sys/fs/cgroup')

_NOISE = re.compile(r'neutronclient is deprecated|GET /\S* status 200')

_UUID = re.compile('[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}')

# What no deletion may leave behind, by the table that holds it.
ROWS = {
    'Neutron ports': "select id from neutron.ports where device_owner not like 'network:%'",
    'Nova servers': 'select uuid from nova.instances where deleted = 0',
    'Nova servers without a host': 'select uuid from nova_cell0.instances where deleted = 0',
    'Nova build requests': 'select instance_uuid from nova_api.build_requests',
    'Cinder volumes': 'select id from cinder.volumes where deleted = 0',
    'Cinder attachments': 'select id from cinder.volume_attachment where deleted = 0',
    'Placement allocations': 'select distinct consumer_id from placement.allocations',
    'containers of the agent': 'select uuid from zun.containers',
    # That of a server that is there may come a moment after it.
    'sandbox claims of the agent': 'select sandbox_id from zun.sandbox_claims where sandbox_id '
    'not in (select uuid from nova.instances where deleted = 0)',
}


@functools.cache
def engine() -> docker.DockerClient:
    """Docker, as the driver and the agent see it."""
    return docker.DockerClient(base_url='unix:///var/run/docker.sock', timeout=30)


def command(*arguments: str) -> str:
    """Run a command of the host, and return its output."""
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, f'{" ".join(arguments)}: {result.stderr}'
    return result.stdout


def query(statement: str, *arguments: object) -> list[tuple[typing.Any, ...]]:
    """Ask the cloud's database."""
    conf = settings.load()
    connection = pymysql.connect(
        host=conf['IP'],
        port=int(conf['DB_PORT']),
        user='allinone',
        password=conf['PASSWORD'],
        connect_timeout=10,
        read_timeout=30,
        ssl_disabled=True,  # to read the system's certificates takes longer than all the rest
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, arguments or None)
            return list(cursor.fetchall())
    finally:
        connection.close()


def server_at_rest(server_id: str) -> list[tuple[typing.Any, ...]]:
    """Return what differs whenever Nova has done something with a server, at little cost.

    :returns: nothing while Nova is at work on it
    """
    columns = 'select vm_state, power_state, deleted, updated_at from'
    where = 'where uuid = %s and task_state is null'
    return query(
        f'{columns} nova.instances {where} union {columns} nova_cell0.instances {where}',
        server_id,
        server_id,
    )


def sandbox_of(container_id: str) -> str | None:
    """Return the id of the sandbox in which the agent's record puts a container."""
    rows = query('select sandbox_id from zun.containers where uuid = %s', container_id)
    return rows[0][0] if rows else None


def owns_sandbox(container_id: str) -> bool:
    """Whether the container's sandbox was made for it."""
    return sandbox_of(container_id) == container_id


def sandboxes() -> contract.SandboxStore:
    """The sandbox directories."""
    return contract.SandboxStore(settings.load().state_path)


def containers(sandbox_id: str, role: str | None = None) -> list[Container]:
    """Return Docker's containers of a sandbox, running or not."""
    labels = [f'{contract.LABEL_SANDBOX}={sandbox_id}']
    if role:
        labels.append(f'{contract.LABEL_ROLE}={role}')
    return engine().containers.list(all=True, filters={'label': labels}, ignore_removed=True)


def pause(sandbox_id: str) -> Container:
    """Return the one pause container of a sandbox."""
    (found,) = containers(sandbox_id, contract.ROLE_PAUSE)
    return found


def container(container_id: str) -> Container:
    """Return the one container in Docker that has this id in the API."""
    found = copies(container_id)
    assert len(found) == 1, f'container {container_id} is {len(found)} times in Docker'
    return found[0]


def copies(container_id: str) -> list[Container]:
    """Return every container in Docker that claims this id of the API."""
    label = f'{contract.LABEL_CONTAINER}={container_id}'
    return engine().containers.list(all=True, filters={'label': label}, ignore_removed=True)


def processes(found: Container) -> set[int]:
    """Return the ids of a container's processes on the host."""
    top = found.top()
    column = top['Titles'].index('PID')
    return {int(row[column]) for row in top['Processes'] or ()}


def control_groups() -> set[str]:
    """Return the control groups of all sandboxes, in every hierarchy."""
    patterns = ('*/zun/*', 'zun/*', 'zun.slice/*', '*/zun.slice/*')
    return {
        path
        for pattern in patterns
        for path in glob.glob(str(CONTROL_GROUPS / pattern))
        if os.path.isdir(path)
    }


def remove_group(path: str) -> None:
    """Remove a control group and those in it."""
    for below, _, _ in os.walk(path, topdown=False):
        pathlib.Path(below).rmdir()


def _group_file(sandbox_id: str, controller: str, name: str) -> pathlib.Path | None:
    digits = sandbox_id.replace('-', '')
    for path in control_groups():
        if digits in path and (f'/{controller}' in path or not version_1()):
            file = pathlib.Path(path) / name
            if file.exists():
                return file
    return None


def version_1() -> bool:
    """Whether control groups are of the kernel's older kind."""
    return not (CONTROL_GROUPS / 'cgroup.controllers').exists()


def cpu_seconds(sandbox_id: str) -> float:
    """Return the time that all processes of a sandbox have had on processors, in seconds."""
    if version_1():
        file = _group_file(sandbox_id, 'cpuacct', 'cpuacct.usage')
        assert file, f'sandbox {sandbox_id} has no cpuacct group'
        return int(file.read_text()) / 1e9
    file = _group_file(sandbox_id, '', 'cpu.stat')
    assert file, f'sandbox {sandbox_id} has no cpu group'
    fields = dict(line.split() for line in file.read_text().splitlines())
    return int(fields['usage_usec']) / 1e6


def cores_used(sandbox_id: str, seconds: float) -> float:
    """Measure, for that many seconds, how many cores a sandbox uses."""
    begin, before = time.monotonic(), cpu_seconds(sandbox_id)
    time.sleep(seconds)
    return (cpu_seconds(sandbox_id) - before) / (time.monotonic() - begin)


_LIMITS = {
    'memory': ('memory', 'memory.limit_in_bytes', 'memory.max'),
    # of version 1 memory and swap together, of version 2 swap alone
    'swap': ('memory', 'memory.memsw.limit_in_bytes', 'memory.swap.max'),
    'pids': ('pids', 'pids.max', 'pids.max'),
    'weight': ('cpu', 'cpu.shares', 'cpu.weight'),
}


def limit(sandbox_id: str, resource: typing.Literal['memory', 'swap', 'pids', 'weight']) -> int:
    """Return a limit of the sandbox's control group, in bytes or tasks, or its weight."""
    controller, *names = _LIMITS[resource]
    name = names[0] if version_1() else names[1]
    file = _group_file(sandbox_id, controller, name)
    assert file, f'sandbox {sandbox_id} has no {name}'
    return int(file.read_text())


def memory_used(sandbox_id: str) -> int:
    """Return what all processes of a sandbox use together, in bytes."""
    name = 'memory.usage_in_bytes' if version_1() else 'memory.current'
    file = _group_file(sandbox_id, 'memory', name)
    assert file, f'sandbox {sandbox_id} has no {name}'
    return int(file.read_text())


def links() -> set[str]:
    """Return the devices in the host's network namespace that ports may have made."""
    found = json.loads(command('ip', '-json', 'link', 'show'))
    kinds = ('tap', 'qbr', 'qvb', 'qvo', 'veth')
    return {link['ifname'] for link in found if link['ifname'].startswith(kinds)}


def switch_ports() -> set[str]:
    """Return the ports of Open vSwitch that are not the network agents' own."""
    output = command(
        'ovs-vsctl', '--timeout=10', '--format=json', '--columns=name,type', 'find', 'Interface'
    )
    own = {'internal', 'patch', 'vxlan'}
    return {name for name, kind in json.loads(output)['data'] if kind not in own}


def mounts() -> set[str]:
    """Return the mount points of the host below the directory of allinone."""
    lines = pathlib.Path('/proc/self/mounts').read_text().splitlines()
    below = f'{settings.load()["ALLINONE_DIR"]}/'
    return {line.split()[1] for line in lines if line.split()[1].startswith(below)}


def loop_devices() -> set[str]:
    """Return the loop devices of Cinder's files, each with its file."""
    share = f'{settings.load()["STATE"]}/cinder/'
    found = set()
    for entry in pathlib.Path('/sys/block').glob('loop*/loop/backing_file'):
        try:
            file = entry.read_text().strip()
        except OSError:  # detached since it was listed
            continue
        if file.startswith(share):
            found.add(f'/dev/{entry.parts[3]} {file}')
    return found


def machines() -> dict[str, int]:
    """Return the process of each virtual machine, by the id of its server."""
    found = {}
    for entry in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = entry.read_bytes().decode(errors='replace').split('\0')
        except (FileNotFoundError, ProcessLookupError):
            continue
        if 'qemu-system' in words[0] and '-uuid' in words:
            found[words[words.index('-uuid') + 1]] = int(entry.parts[2])
    return found


def image_tags() -> set[str]:
    """Return the names of all images in Docker.

    The listing alone has them: Docker's own library asks for each image after it, and fails for
    one that is removed meanwhile.
    """
    return {tag for image in engine().api.images() for tag in image['RepoTags'] or ()}


def _below(directory: pathlib.Path) -> set[str]:
    return {str(path) for path in directory.iterdir()} if directory.is_dir() else set()


def _of_servers(names: Iterable[str]) -> set[str]:
    """Return the names that hold the id of a server, past or present.

    What others do with the same Docker and the same control groups is none of our business.
    """
    digits = {row[0].replace('-', '') for row in query('select uuid from nova.instances')}
    return {name for name in names if ids(name) & digits}


def ids(name: str) -> set[str]:
    """Return the uuids in a name, as digits only."""
    return {one.replace('-', '') for one in _UUID.findall(name)}


def look() -> dict[str, set[str]]:
    """Return everything that a sandbox or a container may leave behind, by kind."""
    label = {'label': contract.LABEL_SANDBOX}
    found = engine().containers.list(all=True, filters=label, ignore_removed=True)
    state_path = settings.load().state_path
    ours = _of_servers(one.labels[contract.LABEL_SANDBOX] for one in found)
    seen = {
        'Docker containers': {
            f'{one.name} ({one.status})'
            for one in found
            if one.labels[contract.LABEL_SANDBOX] in ours
        },
        'network devices': links(),
        'ports of the switch': switch_ports(),
        'control groups': _of_servers(control_groups()),
        'virtual machines': set(machines()),
        'their directories': {
            path
            for path in _below(pathlib.Path(settings.load()['VM_STATE'], 'instances'))
            if ids(path)
        },
        'mounts': mounts(),
        'loop devices': loop_devices(),
        'places of volumes': _below(state_path / 'volumes'),
        'config drives': _below(state_path / 'config-drives'),
        'sandbox directories': _below(state_path / 'sandboxes'),
        'locks': _below(state_path / 'locks'),
        # Neutron's agents remove theirs in their own time, or at their next start.
        'network namespaces': {
            name
            for name in _below(pathlib.Path('/var/run/netns'))
            if not re.search(r'/(qdhcp|qrouter)-', name)
        },
    }
    for what, statement in ROWS.items():
        seen[what] = {str(row[0]) for row in query(statement)}
    return {**seen, **hosts.look()}


def left_behind(before: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return what is there now and was not there before."""
    now = look()
    return {
        what: sorted(there - before[what]) for what, there in now.items() if there - before[what]
    }


def since(path: pathlib.Path, position: int) -> str:
    """Return what a log has after so many bytes."""
    with path.open('rb') as stream:
        stream.seek(position)
        return stream.read().decode(errors='replace')


def tail(path: pathlib.Path, lines: int = 15, since: int = 0) -> str:
    """Return the last lines of a log, of those after the first `since` bytes."""
    if not path.exists():
        return f'(no {path})'
    with path.open('rb') as stream:
        stream.seek(max(since, path.stat().st_size - 100_000))
        text = stream.read().decode(errors='replace')
    told = [line[:300] for line in text.splitlines() if not _NOISE.search(line)]
    return '\n'.join(told[-lines:])


def describe(sandbox_ids: Iterable[str] = ()) -> str:
    """Tell what Docker and the sandbox directories show, for a failure."""
    parts = []
    for one in engine().containers.list(
        all=True, filters={'label': contract.LABEL_SANDBOX}, ignore_removed=True
    ):
        parts.append(f'docker: {one.name} {one.status} {one.attrs["State"].get("Error", "")}')
    for sandbox_id in sandbox_ids:
        record = sandboxes().directory(sandbox_id) / 'sandbox.json'
        parts.append(f'{record}: {record.read_text() if record.exists() else "is not there"}')
    for service in ('zun-agent', 'nova-compute'):
        parts.append(f'-- {service}.log:\n{tail(settings.load().log(service))}')
    return '\n'.join(parts)
