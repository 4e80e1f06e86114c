"""An engine that is restarted while it is asked for something: a real client on a socket."""

import gc
import threading
import time

import pytest

from tests.unit.engine import serving
from zun_virt import engine, host

# Docker's library leaves the socket open that nobody answered.
pytestmark = [
    pytest.mark.filterwarnings('ignore:unclosed:ResourceWarning'),
    pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]

AWAY = (
    'connection error: desc = "transport: Error while dialing dial unix '
    '/run/containerd/containerd.sock: connect: connection refused": unavailable'
)


@pytest.fixture(autouse=True)
def found_here():
    """Let those sockets be found here, and not in whatever test runs when Python looks."""
    yield
    gc.collect()


@pytest.fixture
def answers():
    return {
        'version': {'Version': '20.10.24', 'ApiVersion': '1.41', 'MinAPIVersion': '1.12'},
        'one': {'removed': True},
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'docker.sock'


@pytest.fixture
def docker(path, answers):
    """The engine."""
    with serving(path, answers) as served:
        yield served


@pytest.fixture
def ours(docker):
    """The host, as one sees it who is patient."""
    found = host.Host(host.connect(f'unix://{docker.server_address}', 5, patience=5), 'host1')
    yield found
    found.close()


def test_who_is_not_there_yet_is_waited_for(path, answers):
    late = threading.Event()

    def serve():
        late.wait(10)
        with serving(path, answers):
            done.wait(10)

    done = threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    threading.Timer(0.5, late.set).start()
    try:
        host.connect(f'unix://{path}', 5, patience=10).close()
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize('patience', [0, 0.3])
def test_who_does_not_come_back_is_given_up(path, patience):
    begin = time.monotonic()
    with pytest.raises(host.HostUnavailable):
        host.connect(f'unix://{path}', 5, patience=patience)
    assert patience <= time.monotonic() - begin < patience + 1


def test_patience_begins_when_the_engine_goes_away(docker, answers):
    ours = host.Host(host.connect(f'unix://{docker.server_address}', 5, patience=0.5), 'host1')
    docker.delay = 0.8
    answers['stop'] = [None, {'done': True}]
    ours.stop('one', 5)
    ours.close()
    assert answers['stop'] == []


def test_what_may_be_done_twice_is_asked_for_again(ours, docker, answers):
    answers['start'] = [None, {'done': True}]
    answers['json'] = [None, [], None, []]
    ours.start('one')
    answers['stop'] = [None, {'done': True}]
    ours.stop('one', 5)
    assert ours.sandboxes() == ours.containers('one') == []
    assert docker.asked.count('/v1.41/containers/one/start') == 2


def test_what_may_not_be_done_twice_is_not(ours, docker, answers):
    answers['create'] = [None, {'Id': 'one'}]
    with pytest.raises(host.HostUnavailable):
        ours.create('one', {})
    assert len([path for path in docker.asked if 'create' in path]) == 1


def test_a_containerd_that_is_away_is_waited_for(ours, answers):
    answers['pause'] = [AWAY, {'done': True}]
    ours.pause('one')
    assert answers['pause'] == []
    left = 'failed to start shim: mkdir /run/containerd/task/moby/one: file exists: unknown'
    answers['start'] = [AWAY, 'task one: already exists', 'id already in use', left, {'done': True}]
    ours.start('one')
    assert answers['start'] == []


def test_another_reason_is_told_at_once(ours, answers):
    answers['start'] = ['no such device', {'done': True}]
    with pytest.raises(host.HostError, match='no such device'):
        ours.start('one')


def test_a_containerd_that_stays_away_is_told(docker, answers, monkeypatch):
    monkeypatch.setattr(engine, '_INTERVAL', 0.05)
    answers['start'] = [AWAY] * 100
    ours = host.Host(host.connect(f'unix://{docker.server_address}', 5, patience=0.2), 'host1')
    with pytest.raises(host.HostError, match='containerd'):
        ours.start('one')
    ours.close()
    assert 80 < len(answers['start']) < 99


def test_what_its_killing_has_thawed_needs_no_thawing(ours, answers):
    failed = 'Cannot unpause container one: OCI runtime resume failed: '
    answers['unpause'] = [failed + 'container not paused: unknown', failed + 'no such process']
    ours.unpause('one')
    with pytest.raises(host.HostError, match='no such process'):
        ours.unpause('one')
