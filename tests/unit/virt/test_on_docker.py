"""The driver's part of a sandbox on the machine's own engine, whatever its cgroups are.

Nova, the network and volumes are left out. It is shown with cgroup v1 where the project is tested;
on a machine with cgroup v2 and systemd the same tests show those.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import tarfile
import time
import types
import typing
import uuid
from collections.abc import Iterator

import pytest

from tests.unit.agent.real_docker import IMAGE, URL, engine
from tests.unit.virt import archives
from zun_virt import archive, cgroup, freezing, host, lifecycle, privsep, resources, sandbox
from zun_virt import engine as way

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason='needs root'),
]

MIB = 1 << 20
LIMITS = cgroup.Limits(quota=20_000, period=100_000, shares=1024, memory=64 * MIB, pids=50)
BURNS = ['sh', '-c', 'while :; do :; done']
PLAIN = tarfile.TarInfo('file').tobuf() + bytes(1024)
"""A layer with one empty file."""
ALTERED = tarfile.TarInfo('else').tobuf() + bytes(1024)
WRITES = 'while :; do dd if=/dev/zero of=/file bs=64k count=16 {}; done'
SECONDS = 2.0


class Machine:
    """One sandbox on the engine, and containers in it as the agent would make them."""

    def __init__(self, api: typing.Any, path: pathlib.Path) -> None:
        self.docker = host.Host(way.connect(URL, 60), 'host1')
        self.facts = self.docker.check()
        self.cgroups = cgroup.make(
            self.facts.cgroup_driver, self.facts.cgroup_version, '/sys/fs/cgroup'
        )
        store = sandbox.SandboxStore(path)
        store.prepare()
        self.sandboxes = lifecycle.Lifecycle(self.docker, self.cgroups, store, 10)
        self.api = api
        self.id = str(uuid.uuid4())
        self.parent = sandbox.cgroup_parent(self.id, self.facts.cgroup_driver)

    def make(self) -> lifecycle.Made:
        """Make the sandbox, and call it ready."""
        instance = types.SimpleNamespace(
            uuid=self.id,
            project_id='p',
            user_id='u',
            display_name='box',
            hostname='box',
            metadata={},
            flavor=types.SimpleNamespace(vcpus=1, memory_mb=64, root_gb=1, ephemeral_gb=0),
        )
        record = lifecycle.describe(instance, LIMITS, 'host1', self.parent)
        self.sandboxes.make(record, LIMITS, image=IMAGE, name='box', start=True)
        self.sandboxes.ready(self.id, [])
        made = self.sandboxes.running(self.id)
        assert made is not None
        return made

    def join(self, *command: str) -> str:
        """Start a container in the sandbox; returns Docker's id."""
        name = sandbox.sandbox_name(self.id)
        labels = {sandbox.LABEL_SANDBOX: self.id, sandbox.LABEL_CONTAINER: str(uuid.uuid4())}
        body = {
            'Image': IMAGE,
            'Cmd': list(command),
            'Labels': labels,
            'HostConfig': {
                **{f'{kind}Mode': f'container:{name}' for kind in ('Network', 'Ipc', 'Pid')},
                'CgroupParent': self.parent,
                'VolumesFrom': [name],
            },
        }
        made: str = self.docker.create(f'zun-{uuid.uuid4()}', body)
        self.docker.start(made)
        return made

    def groups(self) -> list[pathlib.Path]:
        """Return the sandbox's control groups, in every hierarchy."""
        return list(pathlib.Path('/sys/fs/cgroup').glob(f'**/{self.parent.lstrip("/")}'))

    def cores_used(self) -> float:
        """Measure how many cores all of the sandbox's processes use together."""
        begin, before = time.monotonic(), self.cgroups.usage(self.parent)['cpu']
        time.sleep(SECONDS)
        used = self.cgroups.usage(self.parent)['cpu'] - before
        return used / 1e9 / (time.monotonic() - begin)

    def written(self) -> float:
        """Measure how many MiB a second all of the sandbox's processes write together."""
        begin, before = time.monotonic(), self.cgroups.usage(self.parent)['write_bytes']
        time.sleep(4 * SECONDS)
        done = self.cgroups.usage(self.parent)['write_bytes'] - before
        return done / MIB / (time.monotonic() - begin)


@pytest.fixture(scope='module')
def api() -> Iterator[typing.Any]:
    with engine() as client:
        yield client


@pytest.fixture
def machine(api: typing.Any, tmp_path: pathlib.Path) -> Iterator[Machine]:
    with contextlib.ExitStack() as undo:
        for context in (privsep.network, privsep.mounts):
            context.set_client_mode(False)
            undo.callback(context.set_client_mode, True)
        made = Machine(api, tmp_path)
        undo.callback(made.docker.close)
        places = str(made.sandboxes.store.volumes_root)
        subprocess.run(['mount', '--bind', places, places], check=True)
        undo.callback(subprocess.run, ['umount', places], check=True)
        subprocess.run(['mount', '--make-shared', places], check=True)
        undo.callback(made.sandboxes.remove, made.id, 0, lambda: None)
        yield made
        made.sandboxes.remove(made.id, 0, lambda: None)
        assert not made.docker.containers(made.id)
        assert not made.groups()


@pytest.mark.parametrize('layer', [PLAIN, ALTERED], ids=['plain', 'altered'])
def test_an_image_is_taken_unless_a_layer_is_altered(
    machine: Machine, tmp_path: pathlib.Path, layer: bytes
) -> None:
    """Its layers are Docker's to compare with the digests, which are all that names them."""
    tag = f'{sandbox.SANDBOX_IMAGES}:{machine.id}-test'
    received, rewritten = tmp_path / 'received', tmp_path / 'rewritten'
    received.write_bytes(archives.archive(archives.image_config((PLAIN,)), (layer,)))
    archive.rewrite(received, rewritten, tag=tag, architecture='amd64')
    with rewritten.open('rb') as stream:
        if layer == PLAIN:
            loaded = machine.docker.load(stream, tag)
            assert machine.docker.image_id(tag) == loaded
            machine.api.remove_image(tag)
        else:
            with pytest.raises(host.ImageRefused, match=tag):
                machine.docker.load(stream, tag)
            assert machine.docker.image_id(tag) is None
    assert machine.docker.image_id('evil:latest') is None


def test_limits_hold_for_the_sum(machine: Machine) -> None:
    machine.make()
    for _ in range(2):
        machine.join(*BURNS)
    assert 0.1 < machine.cores_used() < 0.3  # of two that would take two


def test_out_of_memory_spares_the_sandbox(machine: Machine) -> None:
    made = machine.make()
    innocent = machine.join('sleep', '1000')
    hog = machine.join('dd', 'if=/dev/zero', 'of=/dev/null', 'bs=200M')
    deadline = time.monotonic() + 30
    while machine.docker.inspect(hog).alive:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert machine.docker.inspect(hog).exit_code in (1, 137)  # busybox may be told, or killed
    assert machine.docker.inspect(innocent).alive
    assert machine.sandboxes.running(machine.id) == made


def test_limits_change_while_it_runs(machine: Machine) -> None:
    machine.make()
    machine.join(*BURNS)
    more = cgroup.Limits(quota=60_000, period=100_000, shares=1024, memory=96 * MIB, pids=60)
    machine.cgroups.update(machine.parent, more, LIMITS)
    assert 0.4 < machine.cores_used() < 0.8
    small = cgroup.Limits(quota=60_000, period=100_000, shares=1024, memory=96 * MIB, pids=1)
    with pytest.raises(cgroup.LimitsInUse):
        machine.cgroups.update(machine.parent, small, more)


@pytest.mark.parametrize('how', ['conv=notrunc oflag=direct', 'conv=notrunc,fsync'])
def test_io_is_bounded_for_the_sum(machine: Machine, how: str) -> None:
    """Past the kernel's cache, and what the kernel writes from there on a container's behalf."""
    facts = machine.facts
    disk = resources.disk_of(facts.data_root) if facts.cgroup_version == 2 else None
    if disk is None:
        pytest.skip('to bound block I/O takes cgroup v2, and a disk below Docker')
    machine.make()
    free = dataclasses.replace(LIMITS, quota=None)
    bounded = dataclasses.replace(free, io=cgroup.Io(device=disk, write_bytes=MIB))
    machine.cgroups.update(machine.parent, bounded, LIMITS)
    for _ in range(2):
        machine.join('sh', '-c', WRITES.format(how))
    written = machine.written()
    assert 0.5 < written < 1.5
    machine.cgroups.update(machine.parent, free, bounded)
    assert machine.written() > 3


def test_stopped_and_started_it_has_its_limits(machine: Machine) -> None:
    made = machine.make()
    user = machine.join('sleep', '1000')
    machine.sandboxes.stop(machine.id, 1, lambda: None)
    assert not machine.docker.inspect(user).alive
    again = machine.sandboxes.start(made.record, LIMITS)
    assert again is not None and again.pid
    assert again.record.pause is not None and made.record.pause is not None
    assert again.record.pause.id == made.record.pause.id
    machine.join(*BURNS)
    assert 0.1 < machine.cores_used() < 0.3


def test_made_anew_at_once_it_has_its_limits(machine: Machine) -> None:
    """As by a rebuild."""
    machine.make()
    machine.sandboxes.remove(machine.id, 0, lambda: None)
    machine.make()
    machine.join(*BURNS)
    assert 0.1 < machine.cores_used() < 0.3


def test_frozen_as_a_whole_and_killed(machine: Machine) -> None:
    machine.make()
    machine.join(*BURNS)
    freezing.freeze(machine.docker, machine.sandboxes, machine.id)
    assert machine.cores_used() < 0.01
    freezing.thaw(machine.docker, machine.sandboxes, machine.id)
    assert machine.cores_used() > 0.1
    freezing.freeze(machine.docker, machine.sandboxes, machine.id)
    begin = time.monotonic()
    machine.sandboxes.stop(machine.id, 0, lambda: None)
    assert time.monotonic() - begin < 20
