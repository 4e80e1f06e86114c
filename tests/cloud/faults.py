"""Killing services in the middle of their work, and starting them again."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess

import requests

from tests.cloud import host, settings
from tests.cloud.cloud import User
from tests.cloud.waiting import wait_until

ANSWER = 60.0  # seconds within which a service must answer again


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
        f'{service} dead', lambda: not any(_alive(pid) for pid in doomed), timeout=10, interval=0.05
    )


def _alive(pid: int) -> bool:
    try:
        return _stat(pid)[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def restart(service: str) -> None:
    """Start a service again, and wait until it answers."""
    settings.allinone('restart', service)


def agent_answers() -> bool:
    """Whether the agent serves requests."""
    try:
        answer = requests.get(settings.load().endpoint('AGENT') + '/', timeout=5)
    except requests.ConnectionError:
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
    """Start nova-compute again, and wait until Nova hears from it."""

    def reports() -> set[str]:
        services = admin.compute.services(binary='nova-compute', host=settings.load().host)
        return {str(service.updated_at) for service in services if service.state == 'up'}

    before = reports()
    restart('nova-compute')
    log = settings.load().log('nova-compute')
    wait_until(
        'nova-compute reports',
        lambda: reports() and reports() != before,
        timeout=ANSWER,
        interval=0.5,
        explain=lambda: host.tail(log, 40),
    )


def docker_answers() -> bool:
    """Whether the engine serves requests; Docker's own library leaks a socket when it does not."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect('/var/run/docker.sock')
            connection.sendall(b'GET /_ping HTTP/1.0\r\n\r\n')
            return b' 200 ' in connection.recv(64)
        except OSError:
            return False


def kill_docker() -> None:
    """Kill the engine; its containers' shims live on."""
    _found_docker.clear()
    if runs('dockerd'):
        kill('dockerd')
        return
    pid = int(DOCKER_PID.read_text())
    words = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().decode().split('\0')[:-1]
    _found_docker.extend(words)
    os.kill(pid, signal.SIGKILL)
    wait_until('dockerd dead', lambda: not _alive(pid), timeout=10, interval=0.05)


def restart_docker() -> None:
    """Start the engine again, in the way in which it was, and wait until it answers."""
    if not _found_docker:
        restart('dockerd')
    else:
        DOCKER_PID.unlink(missing_ok=True)  # it takes a zombie for one that still runs
        with settings.load().log('dockerd').open('ab') as log:
            _started.append(
                subprocess.Popen(
                    _found_docker,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
    wait_until('Docker answers', docker_answers, timeout=ANSWER)


DOCKER_PID = pathlib.Path('/var/run/docker.pid')
_found_docker: list[str] = []  # the command of an engine that allinone found running
_started: list[subprocess.Popen[bytes]] = []  # it outlives the tests
