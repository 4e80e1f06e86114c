"""The cloud of ``tools/allinone`` as the benchmarks use it: one tenant, and what it makes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
import time
import typing
from collections.abc import Callable, Iterator

import pymysql
import requests

from tests.bench import raw
from tests.cloud import cloud, host, hosts, settings, users
from tests.cloud.waiting import wait_until
from zun_virt import sandbox

POLL = 0.005
"""Seconds between two looks at something whose time is measured."""

FLAVOR, IMAGE = cloud.SMALL, cloud.SANDBOX_IMAGE

_QUOTA = {'instances': 300, 'cores': 600, 'ram': -1}

Result = typing.TypeVar('Result')


class Lab:
    """A tenant of the cloud, without a quota in the way; all it makes goes with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Make nothing yet: not every benchmark needs everything."""
        self._stack = stack
        self._threads = threading.local()
        self._sandboxes: list[sandbox.Sandbox] = []
        self._round: cloud.Workspace | None = None

    @functools.cached_property
    def engine(self) -> raw.Engine:
        """Docker itself."""
        return self._stack.enter_context(raw.engine())

    @functools.cached_property
    def space(self) -> cloud.Workspace:
        """What the tenant makes for all benchmarks."""
        demo, admin = cloud.User('demo'), cloud.User('admin')
        self._raise_quota(admin, demo.project_id)
        self._stack.callback(hosts.second_in_service, admin.compute, True)
        hosts.second_in_service(admin.compute, False)  # what is compared is on the first
        return self._stack.enter_context(cloud.workspace(demo, admin))

    def _raise_quota(self, admin: cloud.User, project: str) -> None:
        path = f'/os-quota-sets/{project}'
        known = admin.compute.get(path).json()['quota_set']
        before = {'quota_set': {name: known[name] for name in _QUOTA}}
        self._stack.callback(admin.compute.put, path, json=before)
        admin.compute.put(path, json={'quota_set': _QUOTA})

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """Remove what is made within: containers, Docker's own among them, and servers."""
        # Servers close connections on which nothing was asked for some seconds.
        self._threads = threading.local()
        with cloud.workspace(self.space.user, self.space.admin) as self._round:
            try:
                yield
            finally:
                self.engine.remove()
        self._round = None

    @property
    def _makes(self) -> cloud.Workspace:
        return self._round or self.space

    @functools.cached_property
    def _token(self) -> str:
        return str(self.space.user.sdk.session.get_token())

    @functools.cached_property
    def network(self) -> str:
        """The tenant's network."""
        return cloud.network_id(self.space.user, 'private')

    def request(
        self, service: str, method: str, path: str, body: object = None, **query: str
    ) -> typing.Any:
        """Ask the API of `AGENT` or `NOVA`; returns its answer, None when it has no body.

        The clients' own libraries would take more time than what is measured.
        """
        http: requests.Session | None = getattr(self._threads, 'http', None)
        if http is None:
            http = self._threads.http = requests.Session()
            http.trust_env = False
            http.headers['X-Auth-Token'] = self._token
            http.headers['OpenStack-API-Version'] = 'container 1.40'
        url = settings.load().endpoint(service) + path
        answer = http.request(method, url, json=body, params=query, timeout=120)
        assert answer.ok, f'{method} {path}: {answer.status_code} {answer.text}'
        return answer.json() if answer.content else None

    def post_container(self, **body: typing.Any) -> str:
        """Ask for a container that runs; returns its id."""
        body = {'image': raw.IMAGE, 'command': raw.COMMAND, **body}
        made = self.request('AGENT', 'POST', '/v1/containers', body, run='true')
        return self._makes.adopt(str(made['uuid']))

    def post_with_sandbox(self) -> str:
        """Ask for a container that gets a new sandbox; returns its id."""
        return self.post_container(hints={'flavor': FLAVOR})

    def post_server(self, flavor: str = FLAVOR, image: str = IMAGE) -> str:
        """Ask for a server, a sandbox unless said otherwise; returns its id."""
        spec = {
            'name': 'bench',
            'flavorRef': cloud.flavor_id(self.space.user, flavor),
            'imageRef': cloud.image_id(self.space.user, image),
            'networks': [{'uuid': self.network}],
        }
        made = self.request('NOVA', 'POST', '/v2.1/servers', {'server': spec})
        return self._makes.adopt_server(str(made['server']['id']))

    def containers(self) -> dict[str, typing.Any]:
        """Return the tenant's containers by their ids."""
        found = self.request('AGENT', 'GET', '/v1/containers')['containers']
        return {one['uuid']: one for one in found}

    def query(self, statement: str, *arguments: object) -> list[tuple[typing.Any, ...]]:
        """Ask the cloud's database, over a connection that stays open."""
        with self._database.cursor() as cursor:
            cursor.execute(statement, arguments)
            return list(cursor.fetchall())

    @functools.cached_property
    def _database(self) -> typing.Any:
        conf = settings.load()
        connection = pymysql.connect(
            host=conf['IP'],
            port=int(conf['DB_PORT']),
            user='allinone',
            password=conf['PASSWORD'],
            autocommit=True,
        )
        return self._stack.enter_context(contextlib.closing(connection))

    def until_running(self, *containers: str, timeout: float = users.START) -> float:
        """Wait until the API calls containers Running.

        It is asked once the store has it so: asked all the time, it would need the
        processors for its answers, and what is measured would take longer.

        :returns: when the store had it so, in seconds since 1970
        """
        marks = ','.join(['%s'] * len(containers))
        statement = f'select status from zun.containers where uuid in ({marks})'

        def arrived() -> bool:
            found = [status for (status,) in self.query(statement, *containers)]
            return 'Error' in found or found == ['Running'] * len(containers)

        # Of many the last counts, which comes late enough to be asked for less often.
        interval = POLL if len(containers) == 1 else 4 * POLL
        wait_until('containers Running', arrived, timeout=timeout, interval=interval)
        known = time.time()
        if len(containers) == 1:
            shown = [self.request('AGENT', 'GET', f'/v1/containers/{containers[0]}')]
        else:
            listed = self.containers()
            shown = [listed[one] for one in containers]
        for one in shown:
            assert one['status'] == 'Running', f'{one["uuid"]}: {one["status_reason"]}'
        return known

    def sandboxes(self, count: int) -> list[sandbox.Sandbox]:
        """Return the records of so many sandboxes that are ready, made for all benchmarks."""
        missing = count - len(self._sandboxes)
        # They outlive the round in which they are first wanted.
        current, self._round = self._round, None
        servers = [self.post_server() for _ in range(missing)]
        self._round = current
        for server in servers:
            self.space.until_server(server, 'ACTIVE')
            record = host.sandboxes().read(server)
            assert record is not None and record.pause, f'sandbox {server} is not on this host'
            self._sandboxes.append(record)
        return self._sandboxes[:count]


def at_once(count: int, act: Callable[[int], Result], threads: int = 0) -> list[Result]:
    """Do it so many times in as many threads, with the number of each; returns the results.

    :param threads: if fewer
    """
    with concurrent.futures.ThreadPoolExecutor(threads or count) as pool:
        return list(pool.map(act, range(count)))
