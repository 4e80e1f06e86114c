"""A cloud on loopback that remembers what it was asked: Keystone, Nova, Neutron and Glance.

It speaks real HTTP, so that what the agent sends is what counts. Users and the agent
itself have tokens; which one came with a request decides what is seen.
"""

from __future__ import annotations

import dataclasses
import http.server
import json
import re
import threading
import typing
import urllib.parse
import uuid

from oslo_config import cfg

from zun_agent import conf as options

SERVICE_TOKEN = 'token-of-zun'
TRAIT = 'trait:CUSTOM_ZUN_SANDBOX'


@dataclasses.dataclass
class Request:
    service: str
    method: str
    path: str
    query: dict[str, list[str]]
    token: str | None
    microversion: str | None
    body: typing.Any


@dataclasses.dataclass
class Context:
    """The user of a request, as the API would tell of him."""

    user_id: str = 'u1'
    project_id: str = 'p1'
    auth_token: str = 'token-of-p1'
    request_id: str = 'req-1'
    service_catalog: list[dict[str, typing.Any]] = dataclasses.field(default_factory=list)


def flavor(name, vcpus, ram, disk=1, *, sandbox=True, **specs):
    specs = {**({TRAIT: 'required'} if sandbox else {}), **specs}
    return {
        'id': f'id-{name}',
        'name': name,
        'vcpus': vcpus,
        'ram': ram,
        'disk': disk,
        'extra_specs': specs,
    }


class FakeCloud:
    """What there is, and what happened."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.failures: dict[tuple[str, str], typing.Any] = {}
        self.flavors = [
            flavor('vm', 1, 64, sandbox=False),
            flavor('large', 4, 4096, 20),
            flavor('small', 1, 512, 1),
            flavor('medium', 2, 1024, 10),
        ]
        self.images = [image('kubernetes/pause')]
        self.networks = [network('private')]
        self.ports: list[dict[str, typing.Any]] = []
        self.security_groups = [{'id': 'sg-1', 'name': 'default', 'project_id': 'p1'}]
        self.servers: dict[str, dict[str, typing.Any]] = {}
        self._lock = threading.Lock()
        handler = type('Handler', (_Handler,), {'cloud': self})
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self._server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self._server.server_port}'
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, method: str, path: str, status: typing.Any, body: typing.Any = None) -> None:
        """Answer so from now on; status 'drop' breaks off, 'done' does it and breaks off."""
        self.failures[method, path] = (status, body)

    def context(self, project_id: str = 'p1') -> Context:
        endpoints = [
            {'type': kind, 'endpoints': [{'region': 'R', 'internalURL': f'{self.url}/{kind}'}]}
            for kind in ('compute', 'network', 'image')
        ]
        return Context(
            project_id=project_id,
            auth_token=f'token-of-{project_id}',
            service_catalog=endpoints,
        )

    def conf(self, **overrides: typing.Any) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        options.register(conf)
        conf([], default_config_files=[])
        group = options.KEYSTONE_AUTH_GROUP
        from keystoneauth1 import loading

        conf.register_opts(loading.get_auth_plugin_conf_options('v3token'), group=group)
        for name, value in (
            ('auth_type', 'v3token'),
            ('auth_url', f'{self.url}/identity/v3'),
            ('token', 'x'),
            ('project_id', 'service'),
        ):
            conf.set_override(name, value, group=group)
        conf.set_override('nova_timeout', 2.0, group='sandbox')
        for name, value in overrides.items():
            section, _, option = name.partition('__')
            conf.set_override(option, value, group=section)
        return conf

    def server(self, **values: typing.Any) -> dict[str, typing.Any]:
        """Add a server, a sandbox unless said otherwise."""
        made = {
            'id': str(uuid.uuid4()),
            'name': 'mybox',
            'tenant_id': 'p1',
            'status': 'ACTIVE',
            'OS-EXT-STS:task_state': None,
            'locked': False,
            'flavor': {**flavor('small', 1, 512), 'original_name': 'small'},
            'image': {'id': self.images[0]['id']} if self.images else '',
            'metadata': {},
            'OS-EXT-SRV-ATTR:host': 'h1',
            **values,
        }
        self.servers[made['id']] = made
        return made

    def asked(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and re.fullmatch(path, r.path)]

    # What the services do

    def answer(self, request: Request) -> tuple[int, typing.Any]:
        with self._lock:
            self.requests.append(request)
        for (method, path), (status, body) in self.failures.items():
            if request.method == method and re.fullmatch(path, request.path):
                if status == 'done':
                    self._serve(request)
                    raise ConnectionResetError
                if status == 'drop':
                    raise ConnectionResetError
                return status, body
        return self._serve(request)

    def _serve(self, request: Request) -> tuple[int, typing.Any]:
        project = (request.token or '').removeprefix('token-of-')
        if request.service == 'compute':
            return self._nova(request, project)
        if request.service == 'network':
            return self._neutron(request)
        if request.service == 'image':
            return self._glance(request)
        return 404, None

    def _nova(self, request: Request, project: str) -> tuple[int, typing.Any]:
        admin = request.token == SERVICE_TOKEN
        visible = {i: s for i, s in self.servers.items() if admin or s['tenant_id'] == project}
        path = request.path.removeprefix('/v2.1')
        if path == '/flavors/detail':
            return 200, {'flavors': self.flavors}
        if path == '/servers' and request.method == 'POST':
            asked = request.body['server']
            made = self.server(name=asked['name'], tenant_id=project, metadata=asked['metadata'])
            return 202, {'server': {'id': made['id']}}
        if path == '/servers/detail':
            name = re.compile(request.query.get('name', [''])[0])
            wanted = request.query.get('project_id')
            found = [
                s
                for s in visible.values()
                if name.search(s['name'])
                and (
                    s['tenant_id'] in wanted
                    if admin and 'all_tenants' in request.query and wanted
                    else s['tenant_id'] == project
                )
            ]
            return 200, {'servers': [_shown(s, admin) for s in found]}
        server = visible.get(path.split('/')[2])
        if server is None:
            return 404, {'itemNotFound': {'code': 404, 'message': 'Instance could not be found.'}}
        if request.method == 'DELETE' or (request.body and 'forceDelete' in request.body):
            del self.servers[server['id']]
            return 204, None
        return 200, {'server': _shown(server, admin)}

    def _neutron(self, request: Request) -> tuple[int, typing.Any]:
        kind = request.path.removeprefix('/v2.0/')
        items = getattr(self, kind.replace('-', '_'))
        found = [
            item
            for item in items
            if all(
                str(item.get(key)) in values
                for key, values in request.query.items()
                if key not in ('fields', 'admin_state_up')
            )
        ]
        return 200, {kind.replace('-', '_'): found}

    def _glance(self, request: Request) -> tuple[int, typing.Any]:
        parts = request.path.split('/')
        if len(parts) > 3:
            for found in self.images:
                if found['id'] == parts[3]:
                    return 200, found
            return 404, 'No image found'
        name = request.query['name'][0]
        return 200, {'images': [found for found in self.images if found['name'] == name]}


def image(name, **values):
    return {
        'id': str(uuid.uuid4()),
        'name': name,
        'status': 'active',
        'visibility': 'public',
        'created_at': '2026-01-01T00:00:00Z',
        **values,
    }


def network(name, **values):
    return {
        'id': f'net-{name}',
        'name': name,
        'project_id': 'p1',
        'shared': False,
        'subnets': ['s'],
        'router:external': False,
        'created_at': '2026-01-01T00:00:00Z',
        **values,
    }


def _shown(server: dict[str, typing.Any], admin: bool) -> dict[str, typing.Any]:
    return {k: v for k, v in server.items() if admin or not k.startswith('OS-EXT-SRV-ATTR')}


class _Handler(http.server.BaseHTTPRequestHandler):
    cloud: FakeCloud
    protocol_version = 'HTTP/1.1'
    wbufsize = 1 << 16  # one packet for head and body, or the client waits for both

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        _, service, *rest = url.path.split('/')
        length = int(self.headers.get('Content-Length') or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if service == 'identity':
            self._identity()
            return
        version = self.headers.get('OpenStack-API-Version')
        request = Request(
            service,
            self.command,
            '/' + '/'.join(rest),
            urllib.parse.parse_qs(url.query),
            self.headers.get('X-Auth-Token'),
            version.split()[1] if version else None,
            body,
        )
        try:
            status, content = self.cloud.answer(request)
        except ConnectionResetError:
            self.close_connection = True
            return
        self._send(status, content)

    do_GET = do_POST = do_DELETE = _serve

    def _identity(self) -> None:
        names = ('compute', 'network', 'image')
        catalog = [
            {
                'type': name,
                'endpoints': [
                    {
                        'interface': 'internal',
                        'region': 'R',
                        'region_id': 'R',
                        'url': f'{self.cloud.url}/{name}',
                    }
                ],
            }
            for name in names
        ]
        token = {
            'token': {
                'expires_at': '2099-01-01T00:00:00.000000Z',
                'issued_at': '2026-01-01T00:00:00.000000Z',
                'methods': ['token'],
                'user': {'id': 'zun', 'name': 'zun', 'domain': {'id': 'd', 'name': 'd'}},
                'project': {'id': 'service', 'name': 's', 'domain': {'id': 'd', 'name': 'd'}},
                'roles': [{'id': 'r', 'name': 'admin'}],
                'catalog': catalog,
            }
        }
        self._send(201, token, {'X-Subject-Token': SERVICE_TOKEN})

    def _send(self, status: int, content: typing.Any, headers: typing.Any = None) -> None:
        data = b'' if content is None else json.dumps(content).encode()
        if isinstance(content, str):
            data = f'<html>{content}</html>'.encode()
        self.send_response(status)
        kind = 'text/html' if isinstance(content, str) else 'application/json'
        for key, value in {'Content-Type': kind, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments: typing.Any) -> None:
        pass
