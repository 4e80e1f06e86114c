"""An engine on a socket, for clients that are real: it says what a test has it say."""

import contextlib
import http.server
import json
import socketserver
import threading


class Engine(socketserver.ThreadingUnixStreamServer):
    """Answers by the last part of a path, and knows no container.

    :ivar asked: the paths of its requests
    :ivar connections: how often it was connected to
    """

    daemon_threads = True

    def __init__(self, path, answers):
        self.answers = answers
        self.asked = []
        self.connections = 0
        super().__init__(str(path), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        self.server.asked.append(self.path)
        said = self.server.answers.get(self.path.rpartition('/')[2])
        body = json.dumps(said or {'message': 'No such container'}).encode()
        self.send_response(200 if said else 404)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return 'socket'

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(path, answers):
    """Serve on a socket, within."""
    with Engine(path, answers) as engine:
        threading.Thread(target=engine.serve_forever, kwargs={'poll_interval': 0.01}).start()
        try:
            yield engine
        finally:
            engine.shutdown()
