"""Docker by its own library, without anything of ours: what we are compared with."""

from __future__ import annotations

import contextlib
import typing
import uuid
from collections.abc import Iterator

import docker

from zun_virt import sandbox

IMAGE = 'alpine'
COMMAND = ['sleep', '3600']
LABEL = 'org.openstack.zun.bench'
_ATTEMPTS = 5


class Engine:
    """Makes containers, and removes them when it is closed."""

    def __init__(self) -> None:
        self.api = docker.APIClient(version='auto', timeout=60, max_pool_size=32)
        self._labels = {LABEL: str(uuid.uuid4())}

    def fetch(self) -> None:
        """Pull the image of containers, which an engine of a new cloud has not."""
        try:
            self.api.inspect_image(IMAGE)
        except docker.errors.ImageNotFound:
            self.api.pull(IMAGE, tag='latest')

    def run(self, image: str, **settings: typing.Any) -> str:
        """Create and start a container; returns its id."""
        made = self._create(image, **settings)
        self.start(made)
        return made

    def start(self, container: str) -> None:
        """Start a container that was created."""
        self.api.start(container)

    def _create(self, image: str, **settings: typing.Any) -> str:
        config = self.api.create_host_config(**settings.pop('host', {}))
        made: str = self.api.create_container(
            image,
            name=f'bench-{uuid.uuid4()}',
            host_config=config,
            labels=self._labels,
            **settings,
        )['Id']
        return made

    def pause(self, image: str) -> str:
        """Run the process of a sandbox without any network."""
        return self.run(image, host={'network_mode': 'none'})

    def joined(self, record: sandbox.Sandbox) -> str:
        """Run a container that joins a sandbox as the agent's do."""
        made = self.create_joined(record)
        self.start(made)
        return made

    def create_joined(self, record: sandbox.Sandbox) -> str:
        """Create such a container, to be started later."""
        assert record.pause
        other = f'container:{record.pause.id}'
        return self._create(
            IMAGE,
            command=COMMAND,
            host={
                'network_mode': other,
                'ipc_mode': other,
                'pid_mode': other,
                'volumes_from': [record.pause.id],
                'cgroup_parent': record.cgroup_parent,
            },
        )

    def remove(self) -> None:
        """Remove what was made so far, again where Docker did not manage at once.

        :raises AssertionError: it does not manage
        """
        (label,) = (f'{name}={value}' for name, value in self._labels.items())
        for _ in range(_ATTEMPTS):
            left = self.api.containers(all=True, quiet=True, filters={'label': label})
            if not left:
                return
            for one in left:
                with contextlib.suppress(docker.errors.APIError):
                    self.api.remove_container(one['Id'], force=True, v=True)
        raise AssertionError(f'{len(left)} containers with label {label} cannot be removed')


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """Give an engine with the image of containers, and leave no container of it."""
    made = Engine()
    try:
        made.fetch()
        yield made
    finally:
        made.remove()
        made.api.close()
