"""A Docker Engine in memory, behind the interface of docker.APIClient."""

import collections
import datetime
import fnmatch
import itertools
import queue
import threading
import time
import uuid

import docker.errors
import requests

from tests.unit.virt import archives
from zun_virt import sandbox

NEVER = '0001-01-01T00:00:00Z'


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


class FakeDocker:
    """An engine, behind the methods of docker.APIClient that the driver calls."""

    api_version = '1.41'

    def __init__(self, data_root='/', memory_mb=8192, cpus=8, on_end=None):
        self.containers_ = {}
        self.images_ = {'kubernetes/pause': 'sha256:pause'}
        self.contents_ = {'sha256:pause': (archives.image_config(), (b'layer',))}
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
            config, layers = self.contents_.get(
                found['Image'], (archives.image_config(), (b'layer',))
            )
            written = self.written.get(found['Id'], b'')
            layers = (*layers, written)
            config = archives.image_config(layers, config={**config['config'], **_committed(found)})
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
        return archives.Pieces(archives.saved(pictures))

    def load_image(self, archive):
        self._call('load')
        try:
            for ident, config, layers, tags in archives.loaded(archive):
                self.contents_[ident] = config, layers
                self.images_.update(dict.fromkeys(tags, ident))
        except archives.UNREADABLE as error:
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
            'timeNano': time.time_ns(),
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


def _committed(container):
    """Return what a container's image takes over from it."""
    config = container['Config']
    kept = {key: config[key] for key in ('Cmd', 'Env', 'Entrypoint') if key in config}
    return {**kept, 'Labels': config['Labels']}
