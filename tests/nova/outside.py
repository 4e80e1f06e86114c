"""What is outside of the driver on the hosts that a test plays: Docker, kernel, Open vSwitch.

Each host has its own, although all of them live in one process: the driver finds its
engine and its directories by its options, which `Outside.configure` sets before the
host's nova-compute starts, and devices and processes tell whose they are.
"""

import contextlib
import itertools
import pathlib
import shutil
import threading
import uuid
from unittest import mock

import docker.errors
import fixtures
import os_vif.exception
from nova import conf

from tests.unit.virt import fake_docker, fakes
from zun_virt import cores, privsep, sandbox

CONF = conf.CONF

IMAGE = 'kubernetes/pause'

_PIDS_PER_HOST = 100_000

_HOSTS = {}
_thread = threading.local()


class Engine(fake_docker.FakeDocker):
    """An engine that leaves a note of whose it is in the thread that calls it."""

    def _call(self, name, *args):
        _thread.engine = self
        super()._call(name, *args)


class Outside(fixtures.Fixture):
    """One host's engine, kernel, switch and state directory."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def _setUp(self):
        self.machine = fakes.FakeMachine(self.useFixture(fixtures.TempDir()).path)
        self.kernel, self.switch = self.machine.kernel, self.machine.switch
        self.store = self.machine.store
        self.docker = self.machine.docker = Engine(
            data_root=str(self.machine.root), memory_mb=16_000, on_end=self.kernel.end_process
        )
        self.number = len(_HOSTS)
        self.docker._pids = itertools.count(1 + self.number * _PIDS_PER_HOST)
        # The same for all hosts, which mount it in places of their own.
        first = next(iter(_HOSTS.values()), self)
        self.storage = self.machine.storage = first.machine.storage
        self.boot_id = str(uuid.uuid4())
        _HOSTS[self.name] = self
        self.addCleanup(_HOSTS.pop, self.name)
        if not self.number:
            self._lead_the_driver_here()

    def _lead_the_driver_here(self):
        replaced = {
            'zun_virt.engine.Client': _client,
            'os_vif.plug': lambda vif, instance: _holder(vif.vif_name).switch.plug(vif, instance),
            'os_vif.unplug': lambda vif, instance: _holder(vif.vif_name).switch.unplug(
                vif, instance
            ),
            'zun_virt.sandbox.boot_id': lambda: _HOSTS[CONF.zun_virt.docker_url].boot_id,
            # An end is reported later than that, in case a start follows.
            'zun_virt.events._STOPPED_SECONDS': 0.3,
            'zun_virt.privsep.start': lambda: None,
            'zun_virt.switch.ports': _ports,
            # nova forbids tests to ask what machine they run on.
            'zun_virt.resources.cpu_info': lambda: {'arch': 'x86_64'},
            'zun_virt.cores.nodes': _machine,
        }
        for name, owner in (
            ('interfaces.plug', _runner),
            ('interfaces.counters', _runner),
            ('interfaces.unplug', _holder),
            ('interfaces.device_exists', _holder),
            ('interfaces.enslave', _holder),
            ('cgroups.make_cgroup', _keeper),
            ('cgroups.remove_cgroup', _keeper),
        ):
            replaced[f'zun_virt.privsep.{name}'] = _led(name.partition('.')[2], owner)
        storage = self.storage
        brick = 'os_brick.initiator.connector'
        replaced[f'{brick}.get_connector_properties'] = storage.properties
        replaced[f'{brick}.InitiatorConnector.factory'] = storage.factory
        for name in storage.KERNEL:
            replaced[f'zun_virt.privsep.filesystems.{name}'] = getattr(storage, name)
        for name, function in replaced.items():
            self.useFixture(fixtures.MonkeyPatch(name, function))

    def configure(self, test, image=IMAGE):
        """Set the options of the nova-compute that starts next on this host.

        :param image: of every sandbox; None for the one that Glance has
        """
        test.flags(
            state_path=str(self.store.root.parent),
            docker_url=self.name,
            cgroup_root=str(self.kernel.cgroups),
            sandbox_image=image,
            vif_replug_timeout=0,
            group='zun_virt',
        )

    # What there is

    @property
    def memory_mb(self):
        return self.docker.memory_mb

    @property
    def disk_gb(self):
        """GiB of the file system on which Docker keeps its data."""
        return shutil.disk_usage(self.machine.root).total >> 30

    def container(self, name):
        """Return what Docker says of the container, or None."""
        return self.docker.named(name)

    def user_container(self, container_id):
        return self.container(sandbox.container_name(container_id))

    def running(self, instance_id):
        """Return the names of the sandbox's containers that have processes."""
        return [
            container['Name']
            for container in self.docker.containers_.values()
            if container['Config']['Labels'].get(sandbox.LABEL_SANDBOX) == instance_id
            and container['State']['Pid']
        ]

    def plugged(self):
        """Return the ports that join a running sandbox to the switch."""
        return sorted(
            entry['iface-id']
            for device, entry in self.switch.ports.items()
            if device in self.kernel.devices and device not in self.switch.stale
        )

    def leftovers(self):
        """Return all there is of sandboxes on the host."""
        return self.machine.leftovers()

    def strangers(self):
        """Return how many containers there are that belong to no sandbox."""
        return sum(
            sandbox.LABEL_SANDBOX not in container['Config']['Labels']
            for container in self.docker.containers_.values()
        )

    def limit(self, instance_id, file):
        """Return what a control file of the sandbox's cgroup holds."""
        return self.kernel.setting(self.store.read(instance_id).cgroup_parent, file)

    def history(self, call):
        """Return the calls of this name to the engine."""
        return [entry for entry in self.docker.calls if entry[0] == call]

    # What happens

    def add_user_container(self, instance_id):
        """Run a container in the sandbox, as the agent does, and return its id."""
        return self.machine.add_container(instance_id)

    def add_stranger(self):
        self.docker.create_container_from_config({'Image': IMAGE}, 'stranger')
        self.docker.start('stranger')

    def write(self, container_id, data):
        """Let a user's container write a file."""
        self.docker.written[self.user_container(container_id)['Id']] = data

    def written(self, image):
        """Return what the container had written of which the image is."""
        return self.docker.contents_[self.docker.images_[image]][1][-1]

    def write_log(self, name, output):
        """Let a container write."""
        self.docker.outputs[self.container(name)['Id']] = output

    def kill(self, instance_id, code=137):
        """Let the pause process die, of SIGKILL or by itself with another code."""
        self.docker.kill(sandbox.sandbox_name(instance_id), code)

    def lose(self, instance_id):
        """Let somebody remove the pause container."""
        self.docker.remove_container(sandbox.sandbox_name(instance_id), force=True)

    def start_behind_the_back(self, instance_id):
        self.docker.start(sandbox.sandbox_name(instance_id))

    def unplug_behind_the_back(self, instance_id):
        pid = self.container(sandbox.sandbox_name(instance_id))['State']['Pid']
        devices = self.kernel.devices
        for device in [name for name, entry in devices.items() if entry['pid'] == pid]:
            del devices[device]
            del self.switch.ports[device]

    def reboot(self):
        """Start the machine anew: Docker has its containers, and nothing runs."""
        for container in list(self.docker.containers_.values()):
            if container['State']['Pid']:
                self.docker.kill(container['Id'])
        self.boot_id = str(uuid.uuid4())
        for directory in self.kernel.cgroups.glob('*/zun'):
            shutil.rmtree(directory)

    @contextlib.contextmanager
    def failing(self, step, text='it is broken', of=None):
        """Let a step fail as long as this lasts.

        :param step: create, start or remove (Docker), cgroup or plug (kernel), ovs (os-vif)
        :param of: the instance uuid of the only sandbox that meets it
        """
        target, name, error = {
            'create': (
                self.docker,
                'create_container_from_config',
                fake_docker.api_error(500, text),
            ),
            'start': (self.docker, 'start', fake_docker.api_error(500, text)),
            'commit': (self.docker, 'commit', fake_docker.api_error(500, text)),
            'remove': (self.docker, 'remove_container', fake_docker.api_error(500, text)),
            'cgroup': (self.kernel, 'make_cgroup', OSError(16, text)),
            'plug': (self.kernel, 'plug', privsep.PrivilegedError(text)),
            'ovs': (self.switch, 'plug', os_vif.exception.PlugException(vif='tap', err=text)),
        }[step]
        works = getattr(target, name)

        def fails(*args, **kwargs):
            if of is None or self._is_of(step, args, of):
                raise error
            return works(*args, **kwargs)

        with mock.patch.object(target, name, fails):
            yield

    def _is_of(self, step, args, instance_id):
        if step == 'ovs':
            return args[1].uuid == instance_id
        pause = self.container(sandbox.sandbox_name(instance_id))
        return args[0] == pause['State']['Pid']

    def use_memory(self, instance_id, size):
        """Let the sandbox's processes use so much memory, in bytes, until they end."""
        parent = self.store.read(instance_id).cgroup_parent
        used = self.kernel.cgroups / f'memory{parent}' / 'memory.usage_in_bytes'
        used.write_text(str(size))
        process_ends = self.docker._on_end

        def end(pid):
            used.unlink(missing_ok=True)
            process_ends(pid)

        self.docker._on_end = end

    @contextlib.contextmanager
    def unavailable(self):
        """Let the engine be down."""
        self.docker.down = True
        try:
            yield
        finally:
            self.docker.down = False


def _ports(instance_id=None):
    """Return what the switch of the host that this thread works for has."""
    engine = getattr(_thread, 'engine', None)
    found = [each for each in _HOSTS.values() if each.docker is engine]
    return found[0].switch.listing(instance_id) if found else []


def _client(base_url, **_options):
    engine = _HOSTS[base_url].docker
    if engine.down:
        raise docker.errors.DockerException('Error while fetching server API version')
    return engine


def _led(name, owner):
    """Return a function that passes a call on to the kernel of the first argument's owner."""

    def call(first, *args):
        return getattr(owner(first).kernel, name)(first, *args)

    return call


def _runner(pid):
    """Return the host on which the process runs, or ran."""
    return next(found for found in _HOSTS.values() if found.number == pid // _PIDS_PER_HOST)


def _keeper(directories):
    """Return the host whose cgroups these are, or for which this thread works."""
    if not directories:
        return _holder('')
    return next(
        found
        for found in _HOSTS.values()
        if pathlib.Path(directories[0]).is_relative_to(found.kernel.cgroups)
    )


def act_for(engine):
    """Take this thread for the host's that has this engine, until another is called."""
    _thread.engine = engine


def _holder(device):
    """Return the host that this thread works for, or else the one that has the device."""
    engine = getattr(_thread, 'engine', None)
    for candidate in _HOSTS.values():
        if candidate.docker is engine:
            return candidate
    return next(
        candidate
        for candidate in _HOSTS.values()
        if device in candidate.kernel.devices or device in candidate.switch.ports
    )


def _machine(memory_mb):
    """Return a machine of 16 cores."""
    cpus = range(16)
    return [
        cores.Node(
            id=0,
            cpus=frozenset(cpus),
            memory_mb=memory_mb,
            siblings=tuple(frozenset({cpu}) for cpu in cpus),
            socket=0,
        )
    ]
