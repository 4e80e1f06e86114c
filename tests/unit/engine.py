"""An engine on a socket, for clients that are real: it says what a test has it say."""

import contextlib
import http.server
import json
import re
import socketserver
import threading
import time


class Engine(socketserver.ThreadingUnixStreamServer):
    """Answers by the last part of a path, and knows no container.

    Its answer to `version` tells which versions it speaks.

    An answer is a document; or a list of what is said one time after the other: a document, what
    went wrong as text, or None for an engine that goes away instead. A pair is a code and what was
    wrong with the request.

    :ivar delay: seconds that an answer takes
    :ivar asked: the paths of its requests
    :ivar connections: how often it was connected to
    """

    daemon_threads = True

    def __init__(self, path, answers):
        self.answers = answers
        self.asked = []
        self.delay = 0.0
        self.connections = 0
        super().__init__(str(path), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.server.asked.append(self.path)
        time.sleep(self.server.delay)
        if wrong := self.refusal():
            self.answer({'message': wrong}, 400)
            return
        last = self.path.partition('?')[0].rpartition('/')[2]
        said, code = self.server.answers.get(last), 200
        if isinstance(said, list):
            said = said.pop(0)
            if said is None:
                self.close_connection = True
                return
            if isinstance(said, str):
                said, code = {'message': said}, 500
        if isinstance(said, tuple):
            code, said = said[0], {'message': said[1]}
        if said is None:
            said, code = {'message': 'No such container'}, 404
        self.answer(said, code)

    def refusal(self):
        """Return what an engine says of a version that it does not speak."""
        spoken = re.match('/v([0-9.]+)/', self.path)
        known = self.server.answers['version']
        least, most = known.get('MinAPIVersion', '1.12'), known['ApiVersion']
        if spoken and _number(spoken[1]) > _number(most):
            return f'client version {spoken[1]} is too new. Maximum supported API version is {most}'
        if spoken and _number(spoken[1]) < _number(least):
            return (
                f'client version {spoken[1]} is too old. Minimum supported API version is '
                f'{least}, please upgrade your client to a newer version'
            )
        return None

    def answer(self, said, code):
        body = json.dumps(said).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET

    def address_string(self):
        return 'socket'

    def log_message(self, *_):
        pass


def _number(version):
    return [int(part) for part in version.split('.')]


@contextlib.contextmanager
def serving(path, answers):
    """Serve on a socket, within."""
    with Engine(path, answers) as engine:
        threading.Thread(target=engine.serve_forever, kwargs={'poll_interval': 0.01}).start()
        try:
            yield engine
        finally:
            engine.shutdown()
