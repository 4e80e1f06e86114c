"""Another agent of the cloud, of a host on which there is nothing."""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import socket
import socketserver
import subprocess
import threading
import typing
from collections.abc import Iterator

import pymysql
import requests

from tests.cloud import host, settings
from tests.cloud.waiting import wait_until

NAME = 'second-agent'


class _Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A Docker Engine without containers and images, in which nothing can be made.

    The cloud's own would have the agent end the containers of the other host.
    """

    daemon_threads = True

    def __init__(self, path: pathlib.Path) -> None:
        self.ended = threading.Event()
        self.told = {'/info': host.engine().info(), '/version': host.engine().version()}
        super().__init__(str(path), _Answer)


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        engine = typing.cast(_Engine, self.server)
        path = self.path.partition('?')[0].removeprefix(
            '/v' + engine.told['/version']['ApiVersion']
        )
        if path == '/events':
            self.send_response(200)
            self.end_headers()
            engine.ended.wait()
        elif path in engine.told:
            self._say(200, engine.told[path])
        elif path.endswith('/json') and path.count('/') == 2:
            self._say(200, [])
        else:
            self._say(404, {'message': 'No such thing'})

    def do_POST(self) -> None:
        self._say(500, {'message': 'Nothing is made here'})

    def _say(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return 'the agent'

    def log_message(self, *arguments: object) -> None:
        pass


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(directory: pathlib.Path) -> Iterator[str]:
    """Run it on the cloud's store, in that directory; yields the URL of its API."""
    conf = settings.load()
    port = free_port()
    (directory / 'agent.conf').write_text(
        f'[DEFAULT]\nhost = {NAME}\nstate_path = {directory}/state\n[api]\nport = {port}\n'
        f'[docker]\nurl = unix://{directory}/docker.sock\n[reconciler]\nreport_interval = 1\n'
    )
    command = [f'{conf["VENV"]}/bin/zun-agent']
    for path in (f'{conf["ETC"]}/zun/zun-agent.conf', f'{directory}/agent.conf'):
        command += ['--config-file', path]
    url = f'http://{conf["IP"]}:{port}'
    log = directory / 'agent.log'
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(_Engine(directory / 'docker.sock'))
        stack.callback(engine.shutdown)
        stack.callback(engine.ended.set)
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        stream = stack.enter_context(log.open('wb'))
        agent = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd='/'
        )
        stack.callback(_forget)
        stack.callback(agent.wait, 20)
        stack.callback(agent.terminate)
        wait_until('agent answers', lambda: _answers(url), timeout=30, explain=log.read_text)
        yield url


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def _forget() -> None:
    """Remove the agent from the list of services: it does not come back."""
    conf = settings.load()
    with pymysql.connect(
        host=conf['IP'],
        port=int(conf['DB_PORT']),
        user='allinone',
        password=conf['PASSWORD'],
        autocommit=True,
        connect_timeout=10,
        read_timeout=30,
    ) as connection:
        connection.cursor().execute('delete from zun.services where host = %s', (NAME,))
