"""A Docker Engine and a Nova in memory, behind the interfaces by which the agent sees them."""

import contextlib
import dataclasses
import datetime
import itertools
import uuid

from oslo_config import cfg

from zun_agent import claims, errors
from zun_agent import conf as options
from zun_agent.facts import Facts, Listed
from zun_agent.images import Images
from zun_agent.images.docker import DockerImages
from zun_agent.models import Action, Container, now
from zun_agent.reconciler import Reconciler
from zun_agent.runtime import NameTaken
from zun_agent.servers import Server
from zun_agent.store import Store
from zun_virt import sandbox as contract

HOST = 'here'
PROJECT = 'a-project'
LIMITS = ('Memory', 'MemorySwap', 'CpuPeriod', 'CpuQuota')


class FakeRuntime:
    """Docker, as far as it is used: what it does not know or allow, it refuses as Docker does.

    :ivar fail: errors to raise, by the name of the method, each once
    :ivar calls: the methods that changed something, in order
    """

    def __init__(self):
        self.containers = {}
        self.bodies = {}
        self.images = {'docker.io/library/alpine:latest'}
        self.registry = {'docker.io/library/nginx:latest'}
        self.fail = {}
        self.refused = set()  # ids that no start succeeds for
        self.calls = []
        self.numbers = itertools.count(1)

    def _did(self, name, docker_id=None):
        self.calls.append(name)
        failures = self.fail.get(name)
        if failures:
            raise failures.pop(0)
        if docker_id is not None and docker_id not in self.containers:
            raise errors.ContainerNotFound(f'No such container: {docker_id}')

    def _set(self, docker_id, **facts):
        self.containers[docker_id] = dataclasses.replace(self.containers[docker_id], **facts)

    def inspect(self, name):
        if self.fail.get('inspect'):
            raise self.fail['inspect'].pop(0)
        return self.containers.get(self.ids().get(name, name))

    def ids(self):
        return {body['name']: docker_id for docker_id, body in self.bodies.items()}

    def create(self, name, body):
        self._did('create')
        if name in self.ids():
            raise NameTaken(f'{name} is already in use by container')
        if body['Image'] not in self.images:
            raise errors.ImageNotFound(f'No such image: {body["Image"]}')
        docker_id = f'{next(self.numbers):064x}'
        given = {key: body.get('HostConfig', {}).get(key, 0) for key in LIMITS}
        self.containers[docker_id] = Facts(
            id=docker_id, state='created', labels=body['Labels'], resources=given
        )
        self.bodies[docker_id] = {**body, 'name': name}
        return docker_id

    def start(self, docker_id):
        self._did('start', docker_id)
        if docker_id in self.refused:
            raise errors.DockerError(f'failed to start shim: mkdir {docker_id}: file exists')
        joined = self.bodies[docker_id].get('HostConfig', {}).get('PidMode')
        if joined:
            pause = self.containers.get(joined.removeprefix('container:'))
            if pause is None:
                raise errors.ContainerNotFound('No such container')
            if not pause.alive:
                raise errors.Conflict('cannot join network of a non running container')
        if self.containers[docker_id].alive:
            return
        # Some time ago, so that a test need not wait until it can have ended since.
        moment = now() - datetime.timedelta(seconds=2)
        self._set(
            docker_id, state='running', started=moment.isoformat() + 'Z', started_at=moment,
            exit_code=0, oom_killed=False, pid=4711,
        )  # fmt: skip

    def end(self, docker_id, code=0, *, ago=0.0, oom=False):
        """Have a container's process end."""
        finished = now() - datetime.timedelta(seconds=ago)
        self._set(
            docker_id, state='exited', exit_code=code, finished_at=finished, pid=0, oom_killed=oom
        )

    def kill(self, docker_id, signal):
        self._did(f'kill {signal}', docker_id)
        if not self.containers[docker_id].alive:
            raise errors.Conflict('is not running')
        if signal == 'KILL':
            self.end(docker_id, 137)

    def pause(self, docker_id):
        self._did('pause', docker_id)
        self._set(docker_id, state='paused')

    def unpause(self, docker_id):
        self._did('unpause', docker_id)
        self._set(docker_id, state='running')

    def update(self, docker_id, resources):
        self._did('update', docker_id)
        self._set(docker_id, resources=self.containers[docker_id].resources | resources)

    def remove(self, docker_id):
        self._did('remove')
        self.containers.pop(docker_id, None)
        self.bodies.pop(docker_id, None)

    def list(self):
        return tuple(
            Listed(
                id=found.id, state=found.state, role=found.labels[contract.LABEL_ROLE],
                sandbox_id=found.labels[contract.LABEL_SANDBOX],
                container_uuid=found.labels.get(contract.LABEL_CONTAINER),
            )
            for found in self.containers.values()
        )  # fmt: skip

    def image_id(self, reference):
        return f'sha256:{reference}' if reference in self.images else None

    def pull(self, repository, tag):
        self._did(f'pull {repository}:{tag}')
        if f'{repository}:{tag}' not in self.registry:
            raise errors.ImageNotFound('manifest unknown')
        self.images.add(f'{repository}:{tag}')


class FakeSandboxes:
    """Nova's side: servers by id, and those that it was asked to delete."""

    def __init__(self):
        self.servers = {}
        self.deleted = []
        self.away = False

    def add(self, server_id, **fields):
        known = {
            'id': server_id, 'name': 'box', 'project_id': PROJECT, 'status': 'ACTIVE',
            'task_state': None, 'locked': False, 'flavor': None, 'image_id': None,
            'metadata': {}, 'host': HOST,
        } | fields  # fmt: skip
        self.servers[server_id] = Server(**known)

    def server(self, server_id):
        if self.away:
            raise errors.ServiceUnavailable('Nova does not answer.')
        return self.servers.get(server_id)

    def delete_server(self, server_id, project_id):
        if self.server(server_id) is None:
            return True
        self.deleted.append(server_id)
        return False

    def addresses(self, sandbox):
        return {'a-network': [{'addr': '10.0.0.5', 'version': 4}]}


class World:
    """One host with an agent whose steps the test takes itself.

    :ivar host: its name
    """

    def __init__(self, path, host=HOST, beside=None):
        """Make a host, in the same cloud as the one `beside` it."""
        self.host = host
        self.conf = cfg.ConfigOpts()
        options.register(self.conf)
        self.conf([], project='zun', default_config_files=[])
        self.conf.set_override('state_path', str(path))
        self.conf.set_override('host', host)
        self.beside = beside
        self.store = beside.store if beside else Store(f'sqlite:///{path}/store.sqlite')
        if beside is None:
            self.store.migrate()
        self.runtime = FakeRuntime()
        self.sandboxes = beside.sandboxes if beside else FakeSandboxes()
        self.local = contract.SandboxStore(path)
        self.local.prepare()
        self.restart_agent()

    def restart_agent(self):
        """Have another agent, which knows nothing of what the one before had in mind."""
        images = Images({'docker': DockerImages(self.conf, self.runtime, None)})
        self.agent = Reconciler(
            self.conf, self.store, self.runtime, self.sandboxes, images, self.local
        )

    def close(self):
        self.agent._fetcher.stop()
        if self.beside is None:
            self.store.close()

    # The driver's part

    def box(self, state=contract.State.READY, *, nova_host=HOST, **fields):
        """Make a sandbox, as the driver does, and have it looked at."""
        sandbox_id = str(uuid.uuid4())
        self.sandboxes.add(sandbox_id, host=nova_host)
        self.local.create(sandbox_id)
        known = {
            'instance_id': sandbox_id, 'project_id': PROJECT, 'user_id': 'a-user', 'name': 'box',
            'hostname': 'box', 'host': HOST, 'state': state, 'incarnation': str(uuid.uuid4()),
            'cgroup_parent': '/zun/x', 'limits': contract.Limits(cpus=1, memory_mb=512, pids=99),
            'pause': self.pause_container(sandbox_id),
        } | fields  # fmt: skip
        return self.write(contract.Sandbox(**known))

    def pause_container(self, sandbox_id):
        labels = {contract.LABEL_SANDBOX: sandbox_id, contract.LABEL_ROLE: contract.ROLE_PAUSE}
        name = f'{contract.sandbox_name(sandbox_id)}-{next(self.runtime.numbers)}'
        image = 'docker.io/library/alpine:latest'
        docker_id = self.runtime.create(name, {'Image': image, 'Labels': labels})
        self.runtime.start(docker_id)
        started = self.runtime.inspect(docker_id).started
        return contract.PauseContainer(id=docker_id, started_at=started, boot_id=contract.boot_id())

    def write(self, record, **changes):
        record = record.replace(**changes)
        self.local.write(record)
        self.agent._views.pause_changed(record.instance_id)
        self.look(record.instance_id)
        return record

    def stop_box(self, box, *running, crash=False, code=137):
        """Stop a sandbox, whose containers end with that code; a crash names nobody."""
        if not crash:
            box = self.write(box, state=contract.State.STOPPING, running=running)
        for found in list(self.runtime.containers.values()):
            if found.labels[contract.LABEL_SANDBOX] == box.instance_id and found.alive:
                self.runtime.end(found.id, code, ago=0.5)
        if crash:
            return box
        return self.write(box, state=contract.State.STOPPED)

    def start_box(self, box):
        box = self.write(box, state=contract.State.BUILDING)
        self.runtime.start(box.pause.id)
        started = self.runtime.inspect(box.pause.id).started
        pause = dataclasses.replace(box.pause, started_at=started)
        return self.write(box, state=contract.State.READY, pause=pause)

    def look(self, sandbox_id):
        with contextlib.suppress(errors.ServiceUnavailable):
            if self.agent._claims.look(sandbox_id) == claims.STARTS:
                self.agent._claims.look(sandbox_id)

    # The user's part

    def container(self, box, *, run=True, **fields):
        """Store a container as the API does, and return its uuid."""
        known = {
            'uuid': str(uuid.uuid4()), 'project_id': PROJECT, 'user_id': 'a-user', 'name': 'c',
            'image': 'alpine', 'image_driver': 'docker', 'image_pull_policy': 'ifnotpresent',
            'sandbox_id': box.instance_id, 'desired': 'running' if run else 'created',
            'status': 'Creating', 'task_state': 'container_creating', 'environment': {},
            'labels': {}, 'hints': {}, 'restart_policy': {}, 'tty': False, 'interactive': False,
            'auto_remove': False, 'owns_sandbox': False,
        } | fields  # fmt: skip
        stored = self.store.add_container(Container(**known), action('run'))
        if stored.host is None and self.local.directory(box.instance_id).is_dir():
            self.look(box.instance_id)
        return stored.uuid

    def request(self, container, name, **changes):
        known = {
            'start': {'desired': 'running', 'task_state': 'container_starting'},
            'stop': {
                'desired': 'stopped', 'task_state': 'container_stopping', 'stop_timeout': 10,
                'instead': True,
            },
            'kill': {'act': {'op': 'kill', 'signal': 'KILL'}},
            'reboot': {
                'desired': 'running', 'task_state': 'container_rebooting',
                'act': {'op': 'restart', 'timeout': 0},
            },
            'pause': {'desired': 'paused', 'task_state': 'container_pausing'},
            'unpause': {'desired': 'running', 'task_state': 'container_unpausing'},
            'delete': {
                'desired': 'deleted', 'stop_timeout': 0, 'status': 'Deleting', 'instead': True
            },
            'update': {},
        }[name]  # fmt: skip
        return self.store.request(container, action=action(name), **(known | changes))

    # The agent's part

    def settle(self, container, steps=20):
        """Take steps until there is nothing to do at once; return the container."""
        for _ in range(steps):
            delay = self.agent.converge(container)
            if delay is None or delay > 0:
                return self.store.container(container)
        raise AssertionError('it does not settle')

    def docker(self, container):
        return self.runtime.inspect(contract.container_name(container))

    def actions(self, container):
        return {
            found.action: (found.finish_time is not None, found.message)
            for found in self.store.actions(container)
        }


def action(name):
    return Action(
        action=name, request_id=f'req-{uuid.uuid4()}', user_id='a-user', project_id=PROJECT
    )
