"""Killing services in the middle of their work, and starting them again."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import signal
import socket
import subprocess
from collections.abc import Iterator

import requests

from tests.cloud import host, settings
from tests.cloud.cloud import User
from tests.cloud.waiting import wait_until

ANSWER = 60.0  # seconds within which a service must answer again
LASTS = datetime.timedelta(seconds=45)  # age of a report that is good for 60 s until the next


def _stat(pid: int) -> list[str]:
    """Return the fields of a process after its name: state, parent, group, session, ..."""
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2].split()


def main_process(service: str) -> int:
    """Return the process that allinone started for a service."""
    path = settings.load().pid_file(service)
    assert path.exists(), f'allinone did not start {service}: there is no {path}'
    pid, started = path.read_text().split()[:2]
    try:
        fields = _stat(int(pid))
        alive = fields[19] == started and fields[0] != 'Z'
    except FileNotFoundError:
        alive = False
    assert alive, f'{service} is dead already: {host.tail(settings.load().log(service))}'
    return int(pid)


def runs(service: str) -> bool:
    """Whether the process that allinone started for a service is there."""
    try:
        main_process(service)
    except AssertionError:
        return False
    return True


def _children(parent: int) -> list[int]:
    found = []
    for entry in pathlib.Path('/proc').iterdir():
        if entry.name.isdigit():
            try:
                if int(_stat(int(entry.name))[1]) == parent:
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def own_processes(service: str) -> list[int]:
    """Return a service's main process and its workers, without what runs for it as root."""
    main = main_process(service)
    workers = []
    for pid in _children(main):
        try:
            words = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
        except FileNotFoundError:
            continue
        if b'sudo' not in words and b'privsep' not in words and b'shim' not in words:
            workers.append(pid)
    return [main, *workers]


def kill(service: str) -> None:
    """Kill a service as the kernel does when memory is short."""
    doomed = own_processes(service)
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        f'{service} dead', lambda: not any(exists(pid) for pid in doomed), timeout=10, interval=0.05
    )


def exists(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    try:
        return _stat(pid)[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def restart(*services: str) -> None:
    """Start services again, and wait until they answer."""
    settings.allinone('restart', *services)


def anew(*services: str) -> None:
    """Start services anew that may run, without their own ends, which take some seconds each."""
    for service in filter(runs, services):
        kill(service)
    restart(*services)


def agent_answers() -> bool:
    """Whether the agent serves requests."""
    try:
        answer = requests.get(settings.load().endpoint('AGENT') + '/', timeout=5)
    except (requests.ConnectionError, requests.Timeout):
        return False
    return answer.status_code == 200


def restart_agent() -> None:
    """Start the agent again, and wait until it answers."""
    restart('zun-agent')
    wait_until(
        'agent answers',
        agent_answers,
        timeout=ANSWER,
        explain=lambda: host.tail(settings.load().log('zun-agent'), 40),
    )


def restart_compute(admin: User) -> None:
    """Start nova-compute again, and wait until it listens and is up to Nova, and stays so.

    It reports for the first time five seconds later. Until then its last report, which is good
    for a minute, does as well, unless it is so old that it might not last.
    """
    restart('nova-compute')  # which waits until it listens

    def up() -> bool:
        oldest = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - LASTS
        services = admin.compute.services(binary='nova-compute', host=settings.load().host)
        return any(
            service.state == 'up' and datetime.datetime.fromisoformat(service.updated_at) > oldest
            for service in services
        )

    log = settings.load().log('nova-compute')
    wait_until('nova-compute up', up, timeout=ANSWER, explain=lambda: host.tail(log, 40))


@contextlib.contextmanager
def compute_with(admin: User, options: str) -> Iterator[None]:
    """Have nova-compute run with more options, as `settings.compute_options` takes them.

    It is killed before each start, as its own end takes some eight seconds.
    """

    def end() -> None:
        if runs('nova-compute'):
            kill('nova-compute')

    with contextlib.ExitStack() as undo:
        undo.callback(restart_compute, admin)
        undo.callback(end)
        end()
        undo.enter_context(settings.compute_options(options))
        restart_compute(admin)
        yield


def _ask_docker(path: str) -> bytes:
    """Return the engine's whole answer, empty when it gives none.

    Docker's own library leaks a socket then.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect('/var/run/docker.sock')
            connection.sendall(f'GET {path} HTTP/1.0\r\n\r\n'.encode())
            return b''.join(iter(lambda: connection.recv(65536), b''))
        except OSError:
            return b''


def docker_answers() -> bool:
    """Whether the engine serves requests."""
    return b' 200 ' in _ask_docker('/_ping')[:64]


def docker_has_containerd() -> bool:
    """Whether the engine has found containerd again, which takes it up to a second or two."""
    return b'"Name":"containerd"' in _ask_docker('/version')


def containerd_answers() -> bool:
    """Whether containerd serves requests."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect('/run/containerd/containerd.sock')
        except OSError:
            return False
    return True


def kill_docker() -> None:
    """Kill the engine; its containers' shims live on."""
    _kill_engine('dockerd')


def restart_docker() -> None:
    """Start the engine again, in the way in which it was, and wait until it answers."""
    if 'dockerd' in _found:
        DOCKER_PID.unlink(missing_ok=True)  # it takes a zombie for one that still runs
    _restart_engine('dockerd')
    wait_until('Docker answers', docker_answers, timeout=ANSWER)


def kill_containerd() -> None:
    """Kill what the engine starts containers by; their shims live on."""
    _kill_engine('containerd')


def restart_containerd() -> None:
    """Start it again, in the way in which it was, and wait until it answers."""
    _restart_engine('containerd')
    wait_until('containerd answers', containerd_answers, timeout=ANSWER)
    if docker_answers():
        wait_until('Docker has containerd', docker_has_containerd, timeout=ANSWER)


def _kill_engine(name: str) -> None:
    _found.pop(name, None)
    if runs(name):
        kill(name)
        return
    pid = int(host.command('pgrep', '--oldest', '--exact', name))
    words = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().decode().split('\0')[:-1]
    _found[name] = words
    os.kill(pid, signal.SIGKILL)
    wait_until(f'{name} dead', lambda: not exists(pid), timeout=10, interval=0.05)


def _restart_engine(name: str) -> None:
    if name not in _found:
        restart(name)
        return
    with settings.load().log(name).open('ab') as log:
        _started.append(
            subprocess.Popen(
                _found[name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )


def kill_switch() -> None:
    """Kill Open vSwitch, its database and what moves packets."""
    for name in reversed(SWITCH):
        file = SWITCH_RUN / f'{name}.pid'
        pid = int(file.read_text())
        os.kill(pid, signal.SIGKILL)
        wait_until(f'{name} dead', lambda pid=pid: not exists(pid), timeout=10, interval=0.05)
        file.unlink()  # its start takes a zombie for one that still runs


def switch_answers() -> bool:
    """Whether what moves packets is there."""
    command = ('ovs-appctl', '--timeout=5', 'version')
    return subprocess.run(command, capture_output=True, timeout=10).returncode == 0


def restart_switch() -> None:
    """Start it again, in the way in which it was.

    The devices of Neutron's own agents have no end in it any more, as a switch in user space
    made them; the agents take new ones when they start.
    """
    command = ('/usr/share/openvswitch/scripts/ovs-ctl', 'start', '--system-id=random')
    subprocess.run((*command, '--no-monitor'), check=True, timeout=60, stdin=subprocess.DEVNULL)
    for namespace in host.command('ip', 'netns', 'list').split():
        if namespace.startswith(('qdhcp-', 'qrouter-')):
            devices = json.loads(host.command('ip', '-n', namespace, '-json', 'link', 'show'))
            for device in devices:
                if 'NO-CARRIER' in device['flags']:
                    host.command('ip', '-n', namespace, 'link', 'delete', device['ifname'])
    anew('neutron-dhcp', 'neutron-l3')


def mend(admin: User) -> None:
    """Have everything run again that a test may have killed."""
    if not switch_answers():
        restart_switch()
    if not runs('mariadb'):
        restart('mariadb')
    if not containerd_answers():
        restart_containerd()
    if not docker_answers():
        restart_docker()
    if not runs('zun-agent'):
        restart_agent()
    if not runs('nova-compute'):
        restart_compute(admin)


SWITCH = ('ovsdb-server', 'ovs-vswitchd')
SWITCH_RUN = pathlib.Path('/var/run/openvswitch')
DOCKER_PID = pathlib.Path('/var/run/docker.pid')
_found: dict[str, list[str]] = {}  # the commands of engines that allinone found running
_started: list[subprocess.Popen[bytes]] = []  # they outlive the tests
