"""The command by which an operator looks at a host."""

import json
import re
import socket
import threading

import docker
import docker.errors
import pytest

from tests.unit.virt.conftest import CONF
from zun_virt import checks, engine, network, privsep, status
from zun_virt.checks import Level

# oslo.upgradecheck's, of the library by which it prints tables.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


@pytest.fixture
def database():
    """What speaks as the switch's database; answers with what is put in."""
    answers = []
    listener = socket.create_server(('127.0.0.1', 0))

    def serve():
        with listener:
            while True:
                try:
                    stream, _ = listener.accept()
                except OSError:
                    return
                with stream:
                    asked = json.loads(stream.recv(4096))
                    assert asked['method'] == 'list_dbs'
                    stream.sendall(answers[-1])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f'tcp:127.0.0.1:{listener.getsockname()[1]}', answers
    # Closing alone does not end an accept.
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    ('answer', 'level', 'text'),
    [
        (b'{"id": 0, "result": ["Open_vSwitch"], "error": null}', Level.FINE, 'answers'),
        (b'{"id": 0, "result": ["other"], "error": null}', Level.FAILURE, 'no database of'),
        (b'SSH-2.0', Level.FAILURE, 'set-manager'),
        (b'', Level.FAILURE, 'does not answer'),
    ],
)
def test_open_vswitch(database, answer, level, text):
    connection, answers = database
    answers.append(answer)
    found = checks.open_vswitch(connection)
    assert found.level is level
    assert text in found.text


@pytest.mark.parametrize(
    ('connection', 'level'),
    [
        ('tcp:127.0.0.1:1', Level.FAILURE),
        ('tcp:nonsense', Level.FAILURE),
        ('unix:/nonexistent', Level.FAILURE),
        ('ssl:127.0.0.1:6640', Level.WARNING),
    ],
)
def test_open_vswitch_that_cannot_be_reached(connection, level):
    assert checks.open_vswitch(connection).level is level


@pytest.fixture
def host(machine, monkeypatch):
    """A host on which all is well, but for what cgroup v1 cannot."""
    place = machine.root / 'zun'
    place.mkdir()
    place.chmod(0o2775)
    CONF.set_override('compute_driver', status.DRIVER)
    CONF.set_override('timeout', 60, group='glance')
    CONF.set_override('state_path', str(place), group='zun_virt')
    CONF.set_override('cgroup_root', str(machine.kernel.cgroups), group='zun_virt')
    monkeypatch.setattr(network, 'switch_database', lambda: 'unix:/nonexistent')
    fine = checks.Finding(Level.FINE, 'answers')
    monkeypatch.setattr(checks, 'open_vswitch', lambda connection: fine)
    yield machine
    CONF.clear_override('compute_driver')
    CONF.clear_override('timeout', group='glance')
    for name in ('state_path', 'cgroup_root'):
        CONF.clear_override(name, group='zun_virt')


def run(capsys):
    """Return the exit code, and what was printed for each check by its title."""
    code = status.Checks().check()
    printed = capsys.readouterr().out
    blocks = re.findall(r'\| Check: (.*?)\s*\|\n\| Result: (\w+)(.*?)\n\+--', printed, re.S)
    # The table breaks lines, and long words.
    return int(code), {
        title: (result, ' '.join(re.sub(r'[|\n]', ' ', rest).split()))
        for title, result, rest in blocks
    }


def test_a_host_that_can_hold_sandboxes(host, capsys):
    code, found = run(capsys)
    assert code == 1
    assert {title: result for title, (result, _) in found.items()} == {
        'Compute driver': 'Success',
        'Docker Engine': 'Success',
        'Live restore': 'Success',
        'Storage driver': 'Warning',
        'Control groups': 'Success',
        'Swap': 'Success',
        'Block I/O': 'Warning',
        'Cores': 'Success',
        'State directory': 'Success',
        'Open vSwitch': 'Success',
        'Privileged processes': 'Success',
        'Time-outs': 'Success',
    }


def test_another_driver(host, capsys):
    CONF.set_override('compute_driver', 'libvirt.LibvirtDriver')
    code, found = run(capsys)
    assert code == 2
    assert 'set compute_driver = zun_virt.ZunDriver' in found['Compute driver'][1]


def test_docker_that_does_not_answer(host, capsys, monkeypatch):
    def refuse(**options):
        raise docker.errors.DockerException('connection refused')

    monkeypatch.setattr(engine, 'Client', refuse)
    code, found = run(capsys)
    assert code == 2
    assert found['Docker Engine'][0] == 'Failure'
    assert "Docker's group" in found['Docker Engine'][1]
    assert found['Swap'][0] == 'Warning'
    assert found['State directory'][0] == 'Success'


def test_a_sudo_line_that_is_wrong(host, capsys, monkeypatch):
    def refuse():
        raise privsep.PrivilegedError('it cannot be started: a password. The command is: sudo x')

    monkeypatch.setattr(privsep, 'start', refuse)
    code, found = run(capsys)
    assert code == 2
    result, text = found['Privileged processes']
    assert result == 'Failure'
    assert 'The command is: sudo x. Compare it with' in text


def test_cores_that_the_host_has_not(host, capsys):
    CONF.set_override('cpu_dedicated_set', '4000', group='compute')
    try:
        code, found = run(capsys)
    finally:
        CONF.clear_override('cpu_dedicated_set', group='compute')
    assert code == 2
    assert 'cpu_dedicated_set' in found['Cores'][1]


@pytest.mark.parametrize(
    ('group', 'name', 'value', 'text'),
    [
        (None, 'vif_plugging_timeout', 0, 'vif_plugging_timeout'),
        (None, 'vif_plugging_is_fatal', False, 'vif_plugging_is_fatal = true'),
        ('glance', 'timeout', None, '[glance] timeout = 60'),
    ],
)
def test_timeouts(host, capsys, group, name, value, text):
    before = getattr(CONF[group] if group else CONF, name)
    CONF.set_override(name, value, group=group)
    try:
        code, found = run(capsys)
    finally:
        CONF.set_override(name, before, group=group)
    assert code == 1
    assert found['Time-outs'][0] == 'Warning'
    assert text in found['Time-outs'][1]


def test_docker_that_stops_sooner_than_nova(host, capsys, monkeypatch):
    monkeypatch.setattr(host.docker, 'info', _without_live_restore(host.docker.info))
    code, found = run(capsys)
    assert code == 1
    assert found['Live restore'][0] == 'Warning'
    assert 'gives containers 15 s' in found['Time-outs'][1]


def _without_live_restore(info):
    return lambda: {**info(), 'LiveRestoreEnabled': False}
