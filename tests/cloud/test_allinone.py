"""The commands of ``tools/allinone`` that keep a cloud."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess

import pytest

from tests.cloud import faults, host, hosts, leftovers, settings
from tests.cloud.cloud import User, Workspace, gateway, shown_addresses, workspace


def shell(script: str, **environment: str) -> str:
    """Run a script in a shell that knows of nothing but what ``allinone env`` says."""
    done = subprocess.run(
        ['bash', '-euc', f'eval "$({settings.ALLINONE} env)"; {script}'],
        env={'PATH': '/usr/bin:/bin:/usr/sbin:/sbin', 'HOME': os.environ['HOME'], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def status() -> dict[str, dict[str, str]]:
    """Return what ``allinone status`` shows, by service."""
    done = subprocess.run([settings.ALLINONE, 'status'], capture_output=True, text=True, timeout=60)
    lines = done.stdout.replace('as found', 'as-found').splitlines()
    heading, *rows = [line.split() for line in lines]
    assert heading == ['SERVICE', 'PID', 'STATE', 'PORT', 'LOG'], done.stdout + done.stderr
    shown = {row[0]: dict(zip(heading, row, strict=True)) for row in rows}
    stopped = [name for name, row in shown.items() if row['STATE'] == 'stopped']
    assert bool(stopped) == (done.returncode != 0), done.stdout
    return shown


def test_the_shell_of_the_operator_and_of_the_tenant(space: Workspace) -> None:
    name = space.name('seen')
    space.server(name)
    listing = 'openstack server list --all-projects -f json'
    assert name in {server['Name'] for server in json.loads(shell(listing))}
    assert 'zun-agent' in shell('openstack appcontainer service list')
    assert '| uuid' in shell('zun list')
    assert settings.load().host in shell('docker info -f {{.Name}}')
    told = shell('openstack token issue -f json', OS_CLOUD='demo', OS_AUTH_URL='http://nowhere')
    assert json.loads(told)['project_id'] == space.user.project_id


def test_the_status_of_every_service() -> None:
    shown = status()
    assert {'mariadb', 'dockerd', 'openvswitch', 'keystone', 'nova-compute', 'zun-agent'} < set(
        shown
    )
    assert {row['STATE'] for row in shown.values()} <= {'running', 'as-found'}
    agent = shown['zun-agent']
    assert int(agent['PID']) == faults.main_process('zun-agent')
    assert agent['PORT'] == settings.load()['AGENT_PORT']
    assert os.path.exists(agent['LOG'])


def test_what_makes_sandboxes_and_containers_is_no_root() -> None:
    """Nor has it any of root's capabilities; what needs them is in processes of its own."""
    for service in ('nova-compute', 'zun-agent'):
        for suffix in ('', '-2') if hosts.there_are_two() else ('',):
            path = f'/proc/{faults.main_process(service + suffix)}/status'
            told = dict(line.split(':', 1) for line in pathlib.Path(path).read_text().splitlines())
            assert '0' not in {*told['Uid'].split(), *told['Gid'].split(), *told['Groups'].split()}
            held = {name: told[f'Cap{name}'].strip() for name in ('Inh', 'Prm', 'Eff', 'Amb')}
            assert set(held.values()) == {'0' * 16}, f'{service}{suffix} holds {held}'


def test_the_agent_can_get_no_privilege_back() -> None:
    """As with its systemd unit; nova-compute needs sudo."""
    path = f'/proc/{faults.main_process("zun-agent")}/status'
    told = dict(line.split(':', 1) for line in pathlib.Path(path).read_text().splitlines())
    assert (told['CapBnd'].strip(), told['NoNewPrivs'].strip()) == ('0' * 16, '1')


def test_all_listens_on_loopback() -> None:
    """Those of a second host listen on a link of its own, in a network namespace."""
    conf = settings.load()
    ours = {f'pid={pid},' for pid in leftovers.cloud_processes(conf)}
    ports = {value for name, value in conf.values.items() if name.endswith('_PORT')}
    found = {}
    for line in host.command('ss', '-Hltnp').splitlines():
        address, _, port = line.split()[3].rpartition(':')
        if port in ports or any(pid in line for pid in ours):
            found[port] = address
    assert {conf['AGENT_PORT'], conf['DB_PORT'], conf['REGISTRY_PORT']} < found.keys()
    assert set(found.values()) <= {'127.0.0.1', '[::1]'}, found


@pytest.mark.alone
def test_an_engine_that_runs_already_is_left_alone() -> None:
    """It is ours, of which every trace is taken away meanwhile."""
    conf, engine = settings.load(), ('dockerd', 'containerd')
    before = {name: faults.main_process(name) for name in engine}
    traces = [conf.pid_file(name) for name in engine]
    traces.append(pathlib.Path(conf['STATE'], 'started.docker'))
    hidden = [path.rename(path.with_suffix('.hidden')) for path in traces if path.exists()]
    try:
        assert len(hidden) == len(traces)
        settings.allinone('up', '--no-demo')
        shown = status()
        assert {shown[name]['STATE'] for name in engine} == {'as-found'}
        with pytest.raises(AssertionError, match='ran before allinone'):
            settings.allinone('restart', 'dockerd')
        assert not any(path.exists() for path in traces)
    finally:
        for path, trace in zip(hidden, traces, strict=False):
            path.rename(trace)
    assert {name: faults.main_process(name) for name in engine} == before
    assert host.engine().ping()


@pytest.mark.alone
def test_a_dead_service_is_shown_and_started_again() -> None:
    faults.kill('memcached')
    assert status()['memcached']['STATE'] == 'stopped'
    settings.allinone('restart', 'memcached')
    assert status()['memcached']['STATE'] == 'running'
    for _ in range(4):  # as many as Keystone has workers, and more
        shell('openstack token issue')


def test_what_allinone_does_not_start_is_not_stopped() -> None:
    with pytest.raises(AssertionError, match='no service nosuch'):
        settings.allinone('restart', 'nosuch', 'zun-agent')
    assert faults.runs('zun-agent')


@pytest.mark.alone
@pytest.mark.parametrize('service', ['libvirtd-vm', 'nova-compute-vm', 'nova-compute-fake'])
def test_what_is_there_on_request_is_not_started_by_a_restart(service: str) -> None:
    with pytest.raises(AssertionError, match='there is no host of'):
        settings.allinone('restart', service)
    assert not faults.runs(service)


@pytest.mark.alone
def test_a_host_with_servers_stays_whole(admin: User, demo: User) -> None:
    name = settings.load()['FAKE_HOST']
    with contextlib.ExitStack() as stack:
        stack.callback(settings.allinone, 'fake-host', 'down')
        settings.allinone('fake-host', 'up')
        space = stack.enter_context(workspace(demo, admin))
        server = space.server(flavor='m1.nano', image='plain', networks='none')
        assert admin.compute.get_server(server).compute_host == name
        with pytest.raises(AssertionError, match=f'1 servers are on {name}'):
            settings.allinone('fake-host', 'down')
        assert faults.runs('nova-compute-fake')


@pytest.mark.alone
def test_what_runs_goes_on_while_the_cloud_is_down(space: Workspace) -> None:
    user = space.user
    lives = space.running(command=['sh', '-c', 'echo it > /kept; exec sleep 3600'])
    shown, (process, *_) = shown_addresses(user, lives), host.processes(host.container(lives))
    settings.allinone('down')
    states = {name: row['STATE'] for name, row in status().items()}
    assert set(states.values()) <= {'stopped', 'as-found'}
    assert states['nova-compute'] == states['zun-agent'] == 'stopped'
    assert os.path.exists(f'/proc/{process}')
    settings.allinone('up', '--no-demo')
    user.wait(lives, 'Running')
    assert process in host.processes(host.container(lives))
    assert user.show(lives).addresses == shown
    assert user.shell(lives, f'cat /kept && ping -c 1 -W 5 {gateway(user)} >/dev/null') == 'it\n'
    made = space.running(sandbox=host.sandbox_of(lives), command=['sleep', '3600'])
    assert user.shell(made, 'echo new') == 'new\n'
