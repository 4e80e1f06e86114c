import fcntl
import importlib.metadata
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
import requests

from tests.unit.agent import fake_cloud
from zun_agent import cmd, conf, errors, locks

REPOSITORY = pathlib.Path(__file__).parents[3]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.fixture
def configuration(tmp_path):
    """An agent whose Keystone and Docker are not there."""
    nowhere = free_port()
    port = free_port()
    path = tmp_path / 'zun-agent.conf'
    path.write_text(f"""
[DEFAULT]
host = somewhere
state_path = {tmp_path}/state
[api]
port = {port}
[docker]
url = unix://{tmp_path}/docker.sock
[keystone_authtoken]
auth_type = password
auth_url = http://127.0.0.1:{nowhere}/v3
username = zun
password = swordfish
project_name = service
user_domain_name = Default
project_domain_name = Default
[keystone_auth]
auth_type = password
auth_url = http://127.0.0.1:{nowhere}/v3
username = zun
password = swordfish
project_name = service
user_domain_name = Default
project_domain_name = Default
""")
    return types.SimpleNamespace(path=path, port=port, url=f'http://127.0.0.1:{port}')


def start(configuration):
    try:
        importlib.metadata.distribution('zun-virt')
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('image drivers are entry points: the project must be installed')
    return subprocess.Popen(
        [sys.executable, '-m', 'zun_agent.cmd', '--config-file', str(configuration.path)],
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    try:
        log, _ = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return log


def wait_for(url, process):
    for _ in range(200):
        assert process.poll() is None, process.stdout.read()
        try:
            return requests.get(url, timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError('it does not listen')


def test_the_agent_starts_alone_and_stops_when_told(configuration, tmp_path):
    process = start(configuration)
    try:
        assert wait_for(configuration.url, process).json()['versions'][0]['id'] == 'v1'
        answer = requests.get(f'{configuration.url}/v1/containers', timeout=5)
        assert answer.status_code in (401, 503)
        told = time.monotonic()
    finally:
        process.send_signal(signal.SIGTERM)
        log = ended(process)
    assert process.returncode == 0, log
    assert time.monotonic() - told < 6
    assert f'on host somewhere listens at {configuration.url}' in log
    assert 'zun-agent has stopped' in log
    assert 'swordfish' not in log
    assert 'Traceback' not in log
    assert (tmp_path / 'state' / 'zun-agent.sqlite').stat().st_mode & 0o777 == 0o600


def test_a_port_that_is_taken_ends_the_agent(configuration):
    with socket.create_server(('127.0.0.1', configuration.port)):
        process = start(configuration)
        log = ended(process)
    assert process.returncode == 1
    assert f'cannot listen on 127.0.0.1 port {configuration.port}' in log


def test_a_host_has_one_agent(configuration, tmp_path):
    (tmp_path / 'state').mkdir()
    assert locks.alone(tmp_path / 'state', 0)
    impatient = 'import sys; from zun_agent import cmd; cmd.PATIENCE = 0.1; sys.exit(cmd.main())'
    done = subprocess.run(
        [sys.executable, '-c', impatient, '--config-file', str(configuration.path)],
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f'another zun-agent works with {tmp_path}/state' in done.stdout


def test_the_agent_before_is_given_time_to_end(tmp_path):
    held = tmp_path / 'zun-agent.lock'
    with held.open('w') as earlier:
        fcntl.flock(earlier, fcntl.LOCK_EX)
        assert not locks.alone(tmp_path, 0.1)
        timer = threading.Timer(0.2, fcntl.flock, (earlier, fcntl.LOCK_UN))
        timer.start()
        assert locks.alone(tmp_path, 5)
        timer.join()
    assert not locks.alone(tmp_path, 0)


def test_the_store_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(cmd, 'STORE_RETRY', 0.05)
    told = threading.Event()
    directory = tmp_path / 'later'
    timer = threading.Timer(0.2, directory.mkdir)
    timer.start()
    assert cmd.open_store(f'sqlite:///{directory}/store.sqlite', told)
    timer.join()
    assert (directory / 'store.sqlite').exists()


def test_the_wait_for_the_store_can_be_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(cmd, 'STORE_RETRY', 60.0)
    told = threading.Event()
    timer = threading.Timer(0.2, told.set)
    timer.start()
    assert not cmd.open_store(f'sqlite:///{tmp_path}/none/store.sqlite', told)
    timer.join()


class Stopped:
    def __init__(self):
        self.calls = []

    def stop(self):
        self.calls.append('stop')

    close = stop


def serve(app):
    server = cmd._Server(('127.0.0.1', 0), app, numthreads=2, shutdown_timeout=cmd.GRACE)
    server.prepare()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    return server, f'http://127.0.0.1:{server.bind_addr[1]}'


def test_a_request_in_flight_is_answered(monkeypatch):
    begun = threading.Event()

    def app(environ, start_response):
        begun.set()
        time.sleep(0.5)
        start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '4')])
        return [b'done']

    server, url = serve(app)
    answers = []
    client = threading.Thread(target=lambda: answers.append(requests.get(url, timeout=5).text))
    client.start()
    assert begun.wait(5)
    agent = types.SimpleNamespace(reconciler=Stopped(), store=Stopped())
    cmd.stop(agent, server)
    client.join(5)
    assert answers == ['done']
    assert agent.reconciler.calls == agent.store.calls == ['stop']


def test_an_endless_request_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(cmd, 'GRACE', 0.3)
    begun, end = threading.Event(), threading.Event()

    def app(environ, start_response):
        begun.set()
        end.wait(20)
        start_response('204 No Content', [])
        return []

    server, url = serve(app)
    client = threading.Thread(target=lambda: requests.get(url, timeout=20))
    client.start()
    assert begun.wait(5)
    told = time.monotonic()
    cmd.stop(types.SimpleNamespace(reconciler=Stopped(), store=Stopped()), server)
    assert time.monotonic() - told < 3
    end.set()
    client.join(5)


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        ({}, 'http://127.0.0.1:9517'),
        ({'bind_host': '192.0.2.1', 'port': 80}, 'http://192.0.2.1:80'),
        ({'bind_host': '0.0.0.0'}, 'http://somewhere:9517'),
        ({'bind_host': '::'}, 'http://somewhere:9517'),
        ({'bind_host': '2001:db8::1'}, 'http://[2001:db8::1]:9517'),
        ({'endpoint': 'https://agent.example:1'}, 'https://agent.example:1'),
    ],
)
def test_where_the_other_agents_reach_this_one(values, expected):
    cloud = fake_cloud.FakeCloud()
    options = cloud.conf()
    cloud.close()
    options.set_override('host', 'somewhere')
    for name, value in values.items():
        options.set_override(name, value, group='api')
    assert conf.endpoint(options) == expected


def test_libraries_that_libraries_drag_in_are_kept_out(monkeypatch):
    monkeypatch.delitem(sys.modules, 'no_such_module', raising=False)
    cmd._keep_out('no_such_module')
    with pytest.raises(ImportError):
        import no_such_module  # noqa: F401
    monkeypatch.delitem(sys.modules, 'no_such_module')


def test_the_agent_does_without_them():
    whole = """
import sys
from zun_agent import cmd
cmd._keep_out(*cmd.UNWANTED)
import sqlalchemy
from zun_agent import images, reconciler, runtime
from zun_agent.api import app
sqlalchemy.create_engine('mysql+pymysql://nobody@127.0.0.1/nothing')
sqlalchemy.create_engine('sqlite://').connect().close()
print(*(name for name in ('eventlet', 'greenlet', 'paramiko') if sys.modules.get(name)))
"""
    ignored = "ignore:'cgi' is deprecated:DeprecationWarning"  # webob, as everywhere
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-W', ignored, '-c', whole],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, '\n', '')


def test_an_unavailable_store_can_be_told_across_processes():
    # which is how `open_store` hears of it
    import pickle

    error = pickle.loads(pickle.dumps(errors.ServiceUnavailable('gone')))
    assert str(error) == 'gone'
