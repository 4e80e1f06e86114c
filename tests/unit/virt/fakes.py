"""What is outside of the driver, in memory: a kernel, a switch, and the host of all.

The engine is that of `fake_docker`, and `fake_cloud` has what nova, Neutron and Glance know.
The kernel stands behind the functions of zun_virt.privsep, the switch behind os_vif.  They keep
state, and they know each other: where a pause process ends, its namespace's devices go, and so
do its joined containers.
"""

import collections
import contextlib
import pathlib
import shutil
import uuid
from unittest import mock

import os_vif
import os_vif.exception
from os_brick.initiator import connector

from tests.unit.virt import fake_cloud, fake_docker, storage
from zun_virt import counters, engine, privsep, sandbox, servers, switch
from zun_virt.privsep import cgroups, filesystems, interfaces

CONTROLLERS = ('blkio', 'cpu,cpuacct', 'cpuset', 'memory', 'pids')


PRIVILEGED = {
    interfaces: ('plug', 'unplug', 'device_exists', 'enslave', 'counters'),
    cgroups: ('make_cgroup', 'remove_cgroup', 'systemd'),
}
"""What `FakeKernel` does in place of the privileged processes."""


class FakeKernel:
    """The kernel, behind the functions of `zun_virt.privsep`.

    Cgroups are directories and files below `cgroups`; devices are by name.
    """

    def __init__(self, cgroups):
        self.cgroups = pathlib.Path(cgroups)
        for controller in CONTROLLERS:
            (self.cgroups / controller).mkdir(parents=True)
        for name, content in (('cpus', '0-7'), ('mems', '0')):
            (self.cgroups / 'cpuset' / f'cpuset.{name}').write_text(f'{content}\n')
        self.devices = {}
        self.bridged = {}
        self.systemd_calls = []
        self.dead = set()
        self._failures = collections.defaultdict(list)

    def fail(self, call, error):
        """Let the next call of this name raise the error."""
        self._failures[call].append(error)

    def end_process(self, pid):
        """Take away what the process's namespace held."""
        self.dead.add(pid)
        for device in [name for name, entry in self.devices.items() if entry['pid'] == pid]:
            del self.devices[device]

    def setting(self, parent, file):
        """Return the content of one of a cgroup's control files, None when it has none."""
        found = list(self.cgroups.glob(f'*/{parent.lstrip("/")}/{file}'))
        return found[0].read_text() if found else None

    def plug(self, pid, device, interface):
        self._call('plug')
        if pid in self.dead or not pid:
            raise privsep.PrivilegedError(f'process {pid} has ended')
        present = self.devices.get(device)
        if present is None or present['pid'] != pid or present['mac'] != interface['mac']:
            names = {e['name'] for e in self.devices.values() if e['pid'] == pid}
            name = next(f'eth{n}' for n in range(9) if f'eth{n}' not in names)
            present = self.devices[device] = {'pid': pid, 'name': name, 'made': uuid.uuid4()}
        gone = {*interface['stale'], *interface['addresses']}
        others = [address for address in present.get('addresses', ()) if address not in gone]
        present.update(interface, addresses=[*interface['addresses'], *others])
        return present['name']

    def unplug(self, device):
        self._call('unplug')
        self.devices.pop(device, None)

    def device_exists(self, device):
        return device in self.devices

    def enslave(self, device, bridge):
        self._call('enslave')
        self.bridged[device] = bridge

    def counters(self, pid):
        self._call('counters')
        kinds = ('bytes', 'packets', 'errors', 'dropped')
        return {
            entry['mac']: {f'{way}_{kind}': 7 for way in ('rx', 'tx') for kind in kinds}
            for entry in self.devices.values()
            if entry['pid'] == pid
        }

    def make_cgroup(self, directories, settings):
        self._call('make_cgroup')
        for directory in directories:
            pathlib.Path(directory).mkdir(exist_ok=True)
        for path, value, optional in settings:
            try:
                self._write_limit(pathlib.Path(path), value)
            except OSError:
                if not optional:
                    raise

    @staticmethod
    def _write_limit(path, value):
        used = path.with_name('memory.usage_in_bytes')
        limit = path.name == 'memory.limit_in_bytes' and used.exists()
        if limit and int(used.read_text()) > int(value):
            raise OSError(16, f'Device or resource busy: {value!r} to {path}')
        path.write_text(value)

    def remove_cgroup(self, directories, seconds):
        self._call('remove_cgroup')
        for directory in directories:
            shutil.rmtree(directory)
        return []

    def systemd(self, method, signature, body, seconds):
        self._call('systemd')
        self.systemd_calls.append((method, signature, body))

    def _call(self, name):
        if self._failures[name]:
            raise self._failures[name].pop(0)


class FakeSwitch:
    """Open vSwitch with Neutron's integration bridge, behind os_vif."""

    def __init__(self, kernel):
        self.ports = {}
        self.stale = set()
        self.silent = False
        """Whether it is not there, which os-vif tells nobody when it unplugs."""
        self._kernel = kernel
        self._failures = []

    def fail(self, error):
        """Let the next plugging fail."""
        self._failures.append(error)

    def plug(self, vif, instance):
        if self._failures:
            raise os_vif.exception.PlugException(vif=vif, err=self._failures.pop(0))
        device = self._kernel.devices.get(vif.vif_name)
        made = device['made'] if device else None
        if vif.vif_name in self.ports and self.ports[vif.vif_name]['made'] != made:
            # In userspace it goes on reading from the device that has gone.
            self.stale.add(vif.vif_name)
            return
        self.ports[vif.vif_name] = {
            'iface-id': vif.id,
            'vm-uuid': instance.uuid,
            'made': made,
        }

    def listing(self, instance_id=None):
        """Return what `zun_virt.switch.ports` does."""
        if self.silent:
            raise switch.SwitchError('Open vSwitch does not answer')
        return [
            switch.Port(device, port['iface-id'], port['vm-uuid'])
            for device, port in self.ports.items()
            if instance_id in (None, port['vm-uuid'])
        ]

    def unplug(self, vif, instance):
        try:
            if self._failures:
                raise self._failures.pop(0)
        except Exception as error:  # noqa: BLE001
            raise os_vif.exception.UnplugException(vif=vif, err=error)  # noqa: B904  as os-vif does
        if not self.silent:
            self.ports.pop(vif.vif_name, None)
            self.stale.discard(vif.vif_name)
        if not hasattr(vif, 'bridge_name') or not vif.vif_name.startswith('qvb'):
            self._kernel.devices.pop(vif.vif_name, None)


class FakeMachine:
    """A whole host: all of these, and the state directory."""

    def __init__(self, directory):
        self.root = pathlib.Path(directory)
        self.kernel = FakeKernel(self.root / 'cgroup')
        self.docker = fake_docker.FakeDocker(
            data_root=str(self.root), on_end=self.kernel.end_process
        )
        self.switch = FakeSwitch(self.kernel)
        self.glance = fake_cloud.FakeGlance()
        self.ports = fake_cloud.FakePorts()
        self.servers = fake_cloud.FakeServers()
        self.storage = storage.FakeStorage()
        self.store = sandbox.SandboxStore(self.root / 'state')

    @contextlib.contextmanager
    def installed(self):
        """Lead the driver here."""
        with contextlib.ExitStack() as stack:

            def replace(target, name, value):
                stack.enter_context(mock.patch.object(target, name, value))

            replace(engine, 'Client', lambda **_options: self.docker)
            replace(os_vif, 'plug', self.switch.plug)
            replace(os_vif, 'unplug', self.switch.unplug)
            replace(switch, 'ports', self.switch.listing)
            replace(privsep, 'start', lambda: None)
            replace(servers, 'Servers', lambda _host: self.servers)
            replace(connector, 'get_connector_properties', self.storage.properties)
            replace(connector.InitiatorConnector, 'factory', self.storage.factory)
            replace(counters, 'of_device', self.storage.counts)
            for name in self.storage.KERNEL:
                replace(filesystems, name, getattr(self.storage, name))
            for module, names in PRIVILEGED.items():
                for name in names:
                    replace(module, name, getattr(self.kernel, name))
            yield self

    def add_container(self, instance_id, **config):
        """Run a container in a sandbox, as the agent does, and return its API id."""
        container_id = str(uuid.uuid4())
        pause = sandbox.sandbox_name(instance_id)
        name = sandbox.container_name(container_id)
        self.docker.create_container_from_config(
            {
                'Image': 'kubernetes/pause',
                'Labels': {
                    sandbox.LABEL_SANDBOX: instance_id,
                    sandbox.LABEL_ROLE: sandbox.ROLE_CONTAINER,
                    sandbox.LABEL_CONTAINER: container_id,
                    sandbox.LABEL_NAME: f'c-{container_id[:8]}',
                },
                'HostConfig': {
                    'NetworkMode': f'container:{pause}',
                    'PidMode': f'container:{pause}',
                },
                **config,
            },
            name,
        )
        self.docker.start(name)
        return container_id

    def leftovers_of_volumes(self):
        """Return all that there is of volumes on the host."""
        found = {
            'connections': list(self.storage.connected),
            'loop devices': list(self.storage.loops),
            'mounts': list(self.storage.mounts),
            'places': [str(path) for path in self.root.glob('state/volumes/*/*')],
        }
        return {kind: entries for kind, entries in found.items() if entries}

    def leftovers(self):
        """Return all that there is of sandboxes on the host."""
        found = {
            'containers': [
                container['Name']
                for container in self.docker.containers_.values()
                if sandbox.LABEL_SANDBOX in container['Config']['Labels']
            ],
            'devices': list(self.kernel.devices),
            'ports': list(self.switch.ports),
            'directories': list(self.store.ids()),
            'config drives': list(self.store.config_drives_root.glob('*')),
            'places of volumes': list(self.store.volumes_root.glob('*')),
            'locks': [path.name for path in self.root.glob('state/locks/*')],
            'downloads': [path.name for path in self.root.glob('state/zun-image-*')],
            'cgroups': [str(path) for path in self.kernel.cgroups.glob('*/zun/*') if path.is_dir()],
        }
        return {kind: entries for kind, entries in found.items() if entries}
