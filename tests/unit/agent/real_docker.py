"""A host on a real Docker Engine, for the tests that find its traps.

A sandbox is made by hand, with the arguments that the driver uses.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tarfile
import time

import docker
import pytest

from tests.unit.agent.fakes import World
from zun_agent import images, runtime
from zun_agent.images.docker import DockerImages
from zun_agent.reconciler import Reconciler
from zun_virt import sandbox as contract

URL = 'unix:///var/run/docker.sock'
IMAGE = f'zun-unit-test/box-{os.getpid()}'  # another worker would take ours away
WAITS = ('sh', '-c', 'trap "exit 0" TERM; while :; do sleep 1000 & wait $!; done')
"""What a pause container does; busybox is no reaper, but ends when it is told to."""

APPLETS = ('sh', 'sleep', 'cat', 'echo', 'true', 'false', 'id', 'seq', 'kill', 'dd', 'touch', 'ps')


@contextlib.contextmanager
def engine():
    """Give a client of the machine's engine, which has an image of busybox meanwhile."""
    busybox = shutil.which('busybox')
    if busybox is None or not subprocess.run(['ldd', busybox], capture_output=True).returncode:
        pytest.skip('there is no static busybox to make an image of')
    # Asked with a socket of our own: the SDK leaves open the one on which it was refused, and
    # whichever test runs when it is collected would fail for it.
    with socket.socket(socket.AF_UNIX) as probe:
        refused = probe.connect_ex(URL.removeprefix('unix://'))
    if refused:
        pytest.skip(f'there is no Docker Engine: {os.strerror(refused)}')
    client = docker.APIClient(URL, version='auto', timeout=60)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w') as target:
        target.add(busybox, 'bin/busybox')
        for applet in APPLETS:
            link = tarfile.TarInfo(f'bin/{applet}')
            link.type, link.linkname = tarfile.SYMTYPE, 'busybox'
            target.addfile(link)
    packed.seek(0)
    client.import_image_from_data(
        packed.read(), repository=IMAGE, tag='latest', changes=[f'CMD {json.dumps(WAITS)}']
    )
    try:
        yield client
    finally:
        client.remove_image(f'{IMAGE}:latest', force=True)
        client.close()


class Host(World):
    """A world whose Docker is real, and whose agent works by itself."""

    def __init__(self, path, api):
        self.api = api
        self.driver = api.info()['CgroupDriver']
        self.boxes = []
        super().__init__(path)

    def restart_agent(self):
        self.runtime = runtime.Runtime(URL)
        self.conf.set_override('full_pass_interval', 5, 'reconciler')
        loaded = images.Images({'docker': DockerImages(None, self.runtime, None)})
        self.agent = Reconciler(
            self.conf, self.store, self.runtime, self.sandboxes, loaded, self.local
        )
        self.agent.start()

    def look(self, sandbox_id):
        self.agent.wake_sandbox(sandbox_id)

    def box(self, *args, **kwargs):
        self.boxes.append(super().box(*args, **kwargs))
        return self.boxes[-1]

    def pause_container(self, sandbox_id):
        parent = contract.cgroup_parent(sandbox_id, self.driver)
        body = {
            'Image': IMAGE,
            'NetworkDisabled': True,
            'Labels': {
                contract.LABEL_SANDBOX: sandbox_id,
                contract.LABEL_ROLE: contract.ROLE_PAUSE,
            },
            'HostConfig': {
                'IpcMode': 'shareable',
                'CgroupParent': parent,
                'CapDrop': ['ALL'],
                'SecurityOpt': ['no-new-privileges'],
            },
        }
        name = contract.sandbox_name(sandbox_id)
        docker_id = self.api.create_container_from_config(body, name)['Id']
        self.api.start(docker_id)
        started = self.runtime.inspect(docker_id).started
        return contract.PauseContainer(id=docker_id, started_at=started, boot_id=contract.boot_id())

    def box_with_cgroup(self):
        box = self.box()
        return self.write(box, cgroup_parent=contract.cgroup_parent(box.instance_id, self.driver))

    def run(self, box, *command, **fields):
        return self.container(box, command=[*command], image=IMAGE, **fields)

    def container(self, box, **fields):
        found = super().container(box, **fields)
        self.agent.wake(found)
        return found

    def request(self, container, name, **changes):
        super().request(container, name, **changes)
        self.agent.wake(container)

    def until(self, container, status, seconds=20.0, **facts):
        deadline = time.monotonic() + seconds
        while True:
            found = self.store.container(container)
            reached = found.status == status and found.observed_generation == found.generation
            if reached and all(getattr(found, name) == value for name, value in facts.items()):
                return found
            assert time.monotonic() < deadline, (found.status, found.status_reason)
            time.sleep(0.01)

    def until_gone(self, container, seconds=20.0):
        deadline = time.monotonic() + seconds
        while self.store.container(container) is not None:
            assert time.monotonic() < deadline, 'its record does not end'
            time.sleep(0.01)

    def close(self):
        self.agent.stop()
        self.store.close()
        ids = {box.instance_id for box in self.boxes}
        for found in self.runtime.list():
            if found.sandbox_id in ids:
                self.runtime.remove(found.id)
        self.runtime.close()
        for box in self.boxes:
            parent = contract.cgroup_parent(box.instance_id, self.driver)
            for directory in pathlib.Path('/sys/fs/cgroup').glob(f'**/{parent.lstrip("/")}'):
                with contextlib.suppress(OSError):  # systemd may be faster
                    directory.rmdir()
