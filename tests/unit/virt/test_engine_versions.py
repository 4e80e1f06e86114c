"""What is spoken with engines of different ages: a real client, a socket that answers."""

import http.server
import json
import socketserver
import threading

import pytest

from zun_virt import host

INFO = {
    'NCPU': 2,
    'MemTotal': 8 << 30,
    'DockerRootDir': '/',
    'Architecture': 'x86_64',
    'CgroupDriver': 'cgroupfs',
    'Driver': 'overlay2',
    'LiveRestoreEnabled': True,
    'SwapLimit': True,
}


class Engine(socketserver.ThreadingUnixStreamServer):
    """Says of what version it is, and of every request which path it was."""

    daemon_threads = True

    def __init__(self, path, version, api, least):
        self.asked = []
        self.answers = {
            'version': {'Version': version, 'ApiVersion': api, 'MinAPIVersion': least},
            'info': {**INFO, 'ServerVersion': version},
        }
        super().__init__(path, Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = json.dumps(self.server.answers[self.path.rpartition('/')[2]]).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return 'socket'

    def log_message(self, *_):
        pass


@pytest.fixture
def ask(tmp_path):
    """Return a function that connects to an engine of some version."""
    engines, hosts = [], []

    def connect(version, api, least):
        engine = Engine(str(tmp_path / f'{version}.sock'), version, api, least)
        engines.append(engine)
        threading.Thread(target=engine.serve_forever, kwargs={'poll_interval': 0.01}).start()
        found = host.Host(host.connect(f'unix://{engine.server_address}', 5), 'host1')
        hosts.append(found)
        return engine, found

    yield connect
    for found in hosts:
        found.close()
    for engine in engines:
        engine.shutdown()
        engine.server_close()


@pytest.mark.parametrize(
    ('version', 'api', 'least', 'number'),
    [
        ('20.10.24+dfsg1', '1.41', '1.12', 20_010_024),
        ('23.0.6', '1.42', '1.12', 23_000_006),
        ('24.0.9', '1.43', '1.12', 24_000_009),
        ('26.1.5', '1.45', '1.24', 26_001_005),
        ('28.5.2', '1.51', '1.24', 28_005_002),
        ('29.0.0-rc.2', '1.52', '1.44', 29_000_000),
    ],
)
def test_each_is_spoken_to_in_its_own_version(ask, version, api, least, number):
    engine, found = ask(version, api, least)
    assert found.check().version == number
    assert engine.asked == ['/version', f'/v{api}/info']


def test_one_that_is_too_old_is_refused(ask):
    _engine, found = ask('18.09.1', '1.39', '1.12')
    with pytest.raises(host.HostError, match=r'1\.39 of the engine is too old'):
        found.check()
