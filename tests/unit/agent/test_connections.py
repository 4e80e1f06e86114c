"""Connections that are kept: a real client, a socket that counts who connects."""

import http.server
import json
import socketserver
import threading

import pytest

from zun_agent import runtime


class Engine(socketserver.ThreadingUnixStreamServer):
    """Knows no container, and how often it was connected to."""

    daemon_threads = True
    connections = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        found = self.path.endswith('/version')
        said = {'ApiVersion': '1.41'} if found else {'message': 'No such container'}
        body = json.dumps(said).encode()
        self.send_response(200 if found else 404)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return 'socket'

    def log_message(self, *_):
        pass


@pytest.fixture
def engine(tmp_path):
    with Engine(str(tmp_path / 'docker.sock'), Handler) as made:
        threading.Thread(target=made.serve_forever, kwargs={'poll_interval': 0.01}).start()
        yield made
        made.shutdown()


def test_one_connection_serves_all_containers(engine):
    agent = runtime.Runtime(f'unix://{engine.server_address}', timeout=5)
    agent.inspect('first')
    before = engine.connections
    for number in range(30):
        assert agent.inspect(f'container-{number}') is None
    assert engine.connections == before
    agent.close()
