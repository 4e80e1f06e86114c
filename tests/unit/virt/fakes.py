"""What is outside of the driver, in memory: a Docker Engine, a kernel, a switch, Glance.

The engine stands behind the interface of docker.APIClient, the kernel behind the functions
of zun_virt.privsep, the switch behind os_vif.  They keep state, and they know each other:
where a pause process ends, its namespace's devices go, and so do its joined containers.
"""

import collections
import contextlib
import datetime
import fnmatch
import hashlib
import io
import itertools
import json
import pathlib
import queue
import shutil
import tarfile
import threading
import time
import uuid
from unittest import mock

import docker.errors
import os_vif
import os_vif.exception
import requests
from nova.network import model
from os_brick.initiator import connector

from tests.unit.virt import storage
from zun_virt import ports, privsep, sandbox, servers, switch
from zun_virt.privsep import cgroups, filesystems, interfaces

NEVER = '0001-01-01T00:00:00Z'
CONTROLLERS = ('blkio', 'cpu,cpuacct', 'cpuset', 'memory', 'pids')


def api_error(code, text):
    """Return what the library raises for an engine's answer."""
    response = requests.Response()
    response.status_code = code
    response.url = 'http+docker://localhost/x'
    kinds = {404: docker.errors.NotFound}
    return kinds.get(code, docker.errors.APIError)(text, response=response, explanation=text)


def now():
    return datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%dT%H:%M:%S.%f') + '123Z'


class Stream:
    """The engine's events for one who listens."""

    def __init__(self, filters):
        self.filters = filters or {}
        self.queue = queue.Queue()

    def __iter__(self):
        return iter(self.queue.get, None)

    def close(self):
        self.queue.put(None)


class Answer(io.BytesIO):
    """What the engine sends piece by piece."""

    def iter_content(self, size):
        while chunk := self.read(700):
            yield chunk


class FakeDocker:
    """An engine, behind the methods of docker.APIClient that the driver calls."""

    api_version = '1.41'

    def __init__(self, data_root='/', memory_mb=8192, cpus=8, on_end=None):
        self.containers_ = {}
        self.images_ = {'kubernetes/pause': 'sha256:pause'}
        self.contents_ = {'sha256:pause': (image_config(), (b'layer',))}
        self.data_root, self.memory_mb, self.cpus = data_root, memory_mb, cpus
        self.cgroup_driver, self.cgroup_version = 'cgroupfs', '1'
        self.lock = threading.RLock()
        self.streams = []
        self.past = []
        self.calls = []
        self.outputs = {}
        self.written = {}
        self.down = False
        self.stubborn = set()
        self.in_registry = {'kubernetes/pause'}
        self._failures = collections.defaultdict(list)
        self._pids = itertools.count(1000)
        self._on_end = on_end or (lambda pid: None)

    # What a test does

    def fail(self, call, error):
        """Let the next call of this name raise the error."""
        self._failures[call].append(error)

    def kill(self, name, code=137):
        """Let a container's process die of SIGKILL, or end by itself with another code."""
        with self.lock:
            self._end(self._find(name), code)

    def restart(self):
        """Start the engine anew, without live-restore: all ends, most of it gently."""
        with self.lock:
            for container in list(self.containers_.values()):
                if container['State']['Pid']:
                    self._end(container, 0)
            self.past.clear()
        self.disconnect()

    def disconnect(self):
        """End all streams of events, as an engine does that is restarted."""
        streams, self.streams = self.streams, []
        for stream in streams:
            stream.close()

    def named(self, name):
        """Return a container's data, or None."""
        for container in self.containers_.values():
            if name in (container['Id'], container['Name'].lstrip('/')):
                return container
        return None

    # What the driver calls

    def info(self):
        self._call('info')
        return {
            'ServerVersion': '20.10.24+dfsg1',
            'NCPU': self.cpus,
            'MemTotal': self.memory_mb << 20,
            'DockerRootDir': self.data_root,
            'Architecture': 'x86_64',
            'CgroupDriver': self.cgroup_driver,
            'CgroupVersion': self.cgroup_version,
            'Driver': 'overlay2',
            'LiveRestoreEnabled': True,
            'SwapLimit': True,
        }

    def close(self):
        pass

    def containers(self, all=False, filters=None):
        self._call('containers')
        with self.lock:
            return [
                {
                    'Id': container['Id'],
                    'Names': [container['Name']],
                    'State': container['State']['Status'],
                    'Labels': dict(container['Config']['Labels']),
                }
                for container in self.containers_.values()
                if (all or container['State']['Pid'])
                and _matches(container, (filters or {}).get('label', []))
            ]

    def inspect_container(self, name):
        self._call('inspect_container', name)
        with self.lock:
            container = self._find(name)
            return {**container, 'State': dict(container['State'])}

    def create_container_from_config(self, config, name=None):
        self._call('create', name)
        with self.lock:
            if self.named(name):
                raise api_error(409, f'Conflict. The container name "/{name}" is already in use')
            if config['Image'] not in {*self.images_, *self.images_.values()}:
                raise api_error(404, f'No such image: {config["Image"]}')
            ident = uuid.uuid4().hex * 2
            self.containers_[ident] = {
                'Id': ident,
                'Name': f'/{name}',
                'Image': self.images_.get(config['Image'], config['Image']),
                'Config': {'Labels': {}, **config},
                'HostConfig': config.get('HostConfig', {}),
                'State': {
                    'Status': 'created',
                    'Pid': 0,
                    'ExitCode': 0,
                    'StartedAt': NEVER,
                    'FinishedAt': NEVER,
                },
            }
        return {'Id': ident, 'Warnings': []}

    def start(self, name):
        self._call('start', name)
        with self.lock:
            container = self._find(name)
            state = container['State']
            if state['Status'] == 'paused':
                raise api_error(409, 'cannot start a paused container, try unpause instead')
            if state['Status'] == 'running':
                return
            for joined in self._joined(container):
                if not joined['State']['Pid']:
                    raise api_error(409, 'cannot join network of a non running container')
            state.update(Status='running', Pid=next(self._pids), StartedAt=now(), ExitCode=0)
            self._emit('start', container)

    def stop(self, name, timeout=10):
        self._call('stop', name, timeout)
        with self.lock:
            container = self._find(name)
            if not container['State']['Pid']:
                return
            if any(member['State']['Status'] == 'paused' for member in self._dependants(container)):
                # After 15 s, with cgroup v1.
                raise api_error(500, 'tried to kill container, but did not receive an exit event')
            self._end(container, 137 if container['Id'] in self.stubborn or not timeout else 0)

    def pause(self, name):
        self._call('pause', name)
        with self.lock:
            container = self._find(name)
            if container['State']['Status'] != 'running':
                raise api_error(409, f'Container {name} is not running or already paused')
            container['State']['Status'] = 'paused'
            self._emit('pause', container)

    def unpause(self, name):
        self._call('unpause', name)
        with self.lock:
            container = self._find(name)
            if container['State']['Status'] != 'paused':
                raise api_error(500, f'Container {name} is not paused')
            container['State']['Status'] = 'running'
            self._emit('unpause', container)

    def remove_container(self, name, v=False, force=False):
        self._call('remove', name)
        with self.lock:
            container = self._find(name)
            if container['State']['Pid'] and not force:
                raise api_error(409, 'You cannot remove a running container')
            if container['State']['Pid']:
                self._end(container, 137)
            del self.containers_[container['Id']]

    def logs(self, name, tail='all', timestamps=False):
        self._call('logs', name)
        lines = self.outputs.get(self._find(name)['Id'], b'').splitlines(keepends=True)
        return b''.join(
            b'2026-11-21T07:44:%02d.000000000Z %s' % (number, line)
            for number, line in enumerate(lines)
        )

    def inspect_image(self, name):
        self._call('inspect_image', name)
        ids = {ident: ident for ident in self.images_.values()}
        found = {**ids, **self.images_, f'{name}:latest': self.images_.get(name)}
        if not found.get(name):
            raise api_error(404, f'No such image: {name}')
        config = self.contents_.get(found[name], ({'config': {}}, ()))[0]
        return {'Id': found[name], 'Config': {'Labels': config['config'].get('Labels')}}

    def images(self, filters=None):
        self._call('images')
        return [
            {'Id': ident, 'RepoTags': [name], 'Created': number}
            for number, (name, ident) in enumerate(self.images_.items())
            if fnmatch.fnmatch(name, filters['reference'])
        ]

    def remove_image(self, name):
        self._call('remove_image', name)
        with self.lock:
            if name not in self.images_:
                raise api_error(404, f'No such image: {name}')
            ident = self.images_[name]
            last = list(self.images_.values()).count(ident) == 1
            for container in self.containers_.values():
                if last and container['Config']['Image'] in (name, ident):
                    raise api_error(409, f'unable to remove {name}: container is using it')
            del self.images_[name]

    def pull(self, repository, tag=None, stream=False, decode=False):
        self._call('pull', repository)
        if repository not in self.in_registry:
            # The engine answers 200 and tells of it in the stream.
            return iter([{'status': 'Pulling'}, {'error': f'manifest for {repository} not found'}])
        self.images_[repository] = self.images_[f'{repository}:{tag}'] = 'sha256:pulled'
        return iter([{'status': 'Pulling'}, {'status': 'Downloaded newer image'}])

    def commit(self, container, repository=None, tag=None):
        self._call('commit', container)
        with self.lock:
            found = self._find(container)
            config, layers = self.contents_.get(found['Image'], (image_config(), (b'layer',)))
            written = self.written.get(found['Id'], b'')
            layers = (*layers, written)
            config = image_config(layers, config={**config['config'], **_committed(found)})
            ident = f'sha256:{uuid.uuid4().hex * 2}'
            self.contents_[ident] = config, layers
            self.images_[f'{repository}:{tag}'] = ident
        return {'Id': ident}

    def tag(self, image, repository, tag):
        self._call('tag', image)
        self.images_[f'{repository}:{tag}'] = self.images_.get(image, image)

    # Its own requests, which the library has no method for

    def _url(self, path):
        return path

    def _raise_for_status(self, response):
        pass

    def _get(self, path, params, stream):
        self._call('save', *params['names'])
        pictures = {name: self.contents_[self.images_[name]] for name in params['names']}
        return Answer(saved(pictures))

    def load_image(self, archive):
        self._call('load')
        try:
            with tarfile.open(fileobj=archive) as tar:
                for entry in json.load(tar.extractfile('manifest.json')):
                    config = tar.extractfile(entry['Config']).read()
                    layers = tuple(tar.extractfile(name).read() for name in entry['Layers'])
                    ident = f'sha256:{hashlib.sha256(config).hexdigest()}'
                    self.contents_[ident] = json.loads(config), layers
                    self.images_.update(dict.fromkeys(entry['RepoTags'], ident))
        except (tarfile.TarError, KeyError) as error:
            return iter([{'error': str(error), 'errorDetail': {'message': str(error)}}])
        return iter([{'stream': 'Loaded image'}])

    def events(self, since=None, until=None, filters=None, decode=False):
        self._call('events')
        stream = Stream(filters)
        if until is not None:
            for happened, event in self.past:
                wanted = event['Action'] in filters['event']
                wanted &= event['Actor']['ID'] in filters['container']
                if float(since) <= happened <= float(until) and wanted:
                    stream.queue.put(event)
            stream.queue.put(None)
            return stream
        with self.lock:
            self.streams.append(stream)
        return stream

    def _call(self, name, *args):
        self.calls.append((name, *args))
        if self.down:
            raise requests.exceptions.ConnectionError('connection refused')
        if self._failures[name]:
            raise self._failures[name].pop(0)

    def _find(self, name):
        container = self.named(name)
        if container is None:
            raise api_error(404, f'No such container: {name}')
        return container

    def _joined(self, container):
        """Return the containers whose namespaces this one shares."""
        modes = {container['HostConfig'].get(f'{kind}Mode', '') for kind in ('Network', 'Pid')}
        names = {mode.partition(':')[2] for mode in modes if mode.startswith('container:')}
        return [self._find(name) for name in names]

    def _dependants(self, container):
        """Return it and, for a pause container, all that live in its sandbox."""
        labels = container['Config']['Labels']
        if labels.get(sandbox.LABEL_ROLE) != sandbox.ROLE_PAUSE:
            return [container]
        return [
            other
            for other in self.containers_.values()
            if other['Config']['Labels'].get(sandbox.LABEL_SANDBOX) == labels[sandbox.LABEL_SANDBOX]
            and other['State']['Pid']
        ]

    def _end(self, container, code):
        for other in self._dependants(container):
            state = other['State']
            pid = state['Pid']
            state.update(
                Status='exited',
                Pid=0,
                FinishedAt=now(),
                ExitCode=code if other is container else 137,
            )
            self._on_end(pid)
            self._emit('die', other)

    def _emit(self, action, container):
        attributes = {**container['Config']['Labels'], 'name': container['Name'][1:]}
        event = {
            'Action': action,
            'Type': 'container',
            'Actor': {'ID': container['Id'], 'Attributes': attributes},
        }
        self.past.append((time.time(), event))
        for stream in self.streams:
            if _matches(container, stream.filters.get('label', [])) and action in (
                stream.filters.get('event', [action])
            ):
                stream.queue.put(event)


def _matches(container, wanted):
    labels = container['Config']['Labels']
    pairs = [entry.partition('=') for entry in wanted]
    return all(
        name in labels and (not equals or labels[name] == value) for name, equals, value in pairs
    )


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

    def listing(self):
        """Return what `zun_virt.switch.ports` does."""
        return [
            switch.Port(device, port['iface-id'], port['vm-uuid'])
            for device, port in self.ports.items()
        ]

    def unplug(self, vif, instance):
        try:
            if self._failures:
                raise self._failures.pop(0)
        except Exception as error:  # noqa: BLE001
            raise os_vif.exception.UnplugException(vif=vif, err=error)  # noqa: B904  as os-vif does
        self.ports.pop(vif.vif_name, None)
        self.stale.discard(vif.vif_name)
        if not hasattr(vif, 'bridge_name') or not vif.vif_name.startswith('qvb'):
            self._kernel.devices.pop(vif.vif_name, None)


class FakePorts:
    """What nova and Neutron know of ports, behind `zun_virt.ports.Ports`.

    :ivar instances: nova's objects, whose caches are nova's
    :ivar neutron: ports and subnets as Neutron tells them, by id
    """

    def __init__(self):
        self.instances = {}
        self.neutron_ports, self.subnets, self.dhcp = {}, {}, {}
        self.truth = {}
        self.refreshed = []
        self.failures = []

    def servers(self):
        return list(self.instances.values())

    def cache(self, instance):
        self._call()
        return list(self.instances.get(instance.uuid, instance).get_network_info())

    def refresh(self, instance):
        self._call()
        self.refreshed.append(instance.uuid)
        instance.info_cache.network_info = model.NetworkInfo(self.truth[instance.uuid])

    def known(self):
        self._call()
        by_server = collections.defaultdict(list)
        for port in self.neutron_ports.values():
            by_server[port['device_id']].append(port)
        return ports.Known(by_server, self.subnets, self.dhcp)

    def has_lost(self, instance, port_id):
        self._call()
        port = self.neutron_ports.get(port_id)
        return port is None or port['device_id'] != instance.uuid

    # What a test does

    def tell(self, instance, *vifs):
        """Let Neutron say of a server's ports what these say, and nova follow when it asks."""
        self.instances[instance.uuid] = instance
        self.truth[instance.uuid] = vifs
        mine = [key for key, p in self.neutron_ports.items() if p['device_id'] == instance.uuid]
        for key in mine:
            del self.neutron_ports[key]
        for vif in vifs:
            fixed = []
            for subnet in vif['network']['subnets']:
                key = f'{vif["network"]["id"]} {subnet["cidr"]}'
                self.subnets[key] = {
                    'id': key,
                    'cidr': subnet['cidr'],
                    'gateway_ip': subnet['gateway']['address'],
                    'dns_nameservers': [server['address'] for server in subnet['dns']],
                    'enable_dhcp': False,
                    'host_routes': [
                        {'destination': route['cidr'], 'nexthop': route['gateway']['address']}
                        for route in subnet['routes']
                    ],
                }
                fixed += [{'subnet_id': key, 'ip_address': ip['address']} for ip in subnet['ips']]
            self.neutron_ports[vif['id']] = {
                'id': vif['id'],
                'device_id': instance.uuid,
                'network_id': vif['network']['id'],
                'fixed_ips': fixed,
            }

    def name(self, vif, fqdn):
        """Let Neutron give a port's addresses a name."""
        port = self.neutron_ports[vif['id']]
        port['dns_name'] = fqdn.partition('.')[0]
        port['dns_assignment'] = [
            {'ip_address': fixed['ip_address'], 'fqdn': f'{fqdn}.'} for fixed in port['fixed_ips']
        ]

    def _call(self):
        if self.failures:
            raise ports.PortsUnknown(self.failures.pop(0))


class FakeGlance:
    """nova's image API, as far as it downloads."""

    def __init__(self):
        self.data = {}
        self.properties = {'img_hv_type': 'docker'}
        self.descriptions = {}
        self.downloads = []

    def get(self, context, image_id):
        return {
            'id': image_id,
            'container_format': 'docker',
            'disk_format': 'raw',
            'checksum': hashlib.md5(self.data[image_id]).hexdigest(),
            'properties': self.properties,
            **self.descriptions.get(image_id, {}),
        }

    def download(self, context, image_id, data=None, dest_path=None, trusted_certs=None):
        self.downloads.append(image_id)
        pathlib.Path(dest_path).write_bytes(self.data[image_id])

    def update(self, context, image_id, description, data=None, purge_props=True):
        self.descriptions[image_id] = description
        self.data[image_id] = b''.join(iter(lambda: data.read(1000), b''))


class FakeServers:
    """What nova knows, behind the methods of `zun_virt.servers.Servers`."""

    def __init__(self):
        self.all = {}
        self.fates = {}

    def add(self, instance):
        """Have nova place a server here, about which it does nothing now."""
        instance.task_state = None
        instance.host = 'host1'
        self.all[instance.uuid] = instance

    def here(self):
        return list(self.all.values())

    def get(self, instance_id):
        return self.all.get(instance_id)

    def volumes(self, server):
        return {}

    def fate(self, instance_id):
        return self.fates.get(instance_id, servers.Fate.UNKNOWN)

    def alone(self, instance_id, act):
        act()


class FakeMachine:
    """A whole host: all of the above, and the state directory."""

    def __init__(self, directory):
        self.root = pathlib.Path(directory)
        self.kernel = FakeKernel(self.root / 'cgroup')
        self.docker = FakeDocker(data_root=str(self.root), on_end=self.kernel.end_process)
        self.switch = FakeSwitch(self.kernel)
        self.glance = FakeGlance()
        self.ports = FakePorts()
        self.servers = FakeServers()
        self.storage = storage.FakeStorage()
        self.store = sandbox.SandboxStore(self.root / 'state')

    @contextlib.contextmanager
    def installed(self):
        """Lead the driver here."""
        with contextlib.ExitStack() as stack:

            def replace(target, name, value):
                stack.enter_context(mock.patch.object(target, name, value))

            replace(docker, 'APIClient', lambda **_options: self.docker)
            replace(os_vif, 'plug', self.switch.plug)
            replace(os_vif, 'unplug', self.switch.unplug)
            replace(switch, 'ports', self.switch.listing)
            replace(privsep, 'start', lambda: None)
            replace(servers, 'Servers', lambda _host: self.servers)
            replace(connector, 'get_connector_properties', self.storage.properties)
            replace(connector.InitiatorConnector, 'factory', self.storage.factory)
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
            'places of volumes': list(self.store.volumes_root.glob('*')),
            'locks': [path.name for path in self.root.glob('state/locks/*')],
            'downloads': [path.name for path in self.root.glob('state/zun-image-*')],
            'cgroups': [str(path) for path in self.kernel.cgroups.glob('*/zun/*') if path.is_dir()],
        }
        return {kind: entries for kind, entries in found.items() if entries}


def _committed(container):
    """Return what a container's image takes over from it."""
    config = container['Config']
    kept = {key: config[key] for key in ('Cmd', 'Env', 'Entrypoint') if key in config}
    return {**kept, 'Labels': config['Labels']}


def saved(pictures):
    """Return an archive of several images, as ``docker save`` writes it.

    :param pictures: configuration and layers, by tag
    """
    output, manifest, names = io.BytesIO(), [], {}
    with tarfile.open(fileobj=output, mode='w') as tar:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for number, (tag, (config, layers)) in enumerate(pictures.items()):
            for place, layer in enumerate(layers):
                name = f'{number}-{place}/layer.tar'
                if layer in names:  # the engine writes what it has written as a link
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = tarfile.SYMTYPE, f'../{names[layer]}'
                    tar.addfile(info)
                else:
                    names[layer] = name
                    add(name, layer)
            add(f'{number}.json', json.dumps(config).encode())
            layers = [f'{number}-{place}/layer.tar' for place in range(len(layers))]
            manifest.append({'Config': f'{number}.json', 'RepoTags': [tag], 'Layers': layers})
        add('manifest.json', json.dumps(manifest).encode())
        add('repositories', b'{}')
    return output.getvalue()


def archive(config=None, layers=(b'layer',), tags=('evil:latest',), manifest=None, extra=()):
    """Return an image archive as ``docker save`` writes it.

    :param config: replaces the image's configuration, as a dict or as bytes
    :param manifest: replaces what manifest.json holds
    :param extra: further members, as tarfile.TarInfo
    """
    if config is None:
        config = image_config(layers)
    document = config if isinstance(config, bytes) else json.dumps(config).encode()
    names = [f'{number}/layer.tar' for number in range(len(layers))]
    if manifest is None:
        manifest = [{'Config': 'abc.json', 'RepoTags': list(tags), 'Layers': names}]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode='w') as tar:
        members = dict(zip(names, layers, strict=True)) | {
            'abc.json': document,
            'manifest.json': json.dumps(manifest).encode(),
        }
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return output.getvalue()


def image_config(layers=(b'layer',), **changes):
    """Return an image's configuration."""
    return {
        'architecture': 'amd64',
        'os': 'linux',
        'config': {'Entrypoint': ['/pause'], 'Env': ['A=b'], 'Volumes': {'/data': {}}, 'User': '7'},
        'rootfs': {
            'type': 'layers',
            'diff_ids': [f'sha256:{hashlib.sha256(layer).hexdigest()}' for layer in layers],
        },
        **changes,
    }
