"""Two sandbox hosts in one cloud: whichever agent is asked, and whichever host a sandbox is on."""

from __future__ import annotations

import pytest
import requests

from tests.cloud import hosts, settings
from tests.cloud.cloud import User, Workspace, address, gateway
from tests.cloud.waiting import stays, wait_until
from zun_virt import sandbox as contract

pytestmark = pytest.mark.two_hosts

FIRST, SECOND = hosts.first(), hosts.second()


@pytest.fixture(scope='module')
def here(shared: Workspace) -> str:
    """A sandbox on the first host."""
    return shared.server(host=FIRST.name)


@pytest.fixture(scope='module')
def there(shared: Workspace) -> str:
    """A sandbox on the second host."""
    return shared.server(host=SECOND.name)


def _ask(user: User, host: hosts.SandboxHost, method: str, path: str, **kwargs: object) -> str:
    answer = requests.request(
        method,
        f'{host.agent}/v1{path}',
        headers={
            'X-Auth-Token': user.sdk.session.get_token(),
            'OpenStack-API-Version': 'container 1.40',
        },
        timeout=60,
        **kwargs,
    )
    assert answer.status_code < 300, answer.text
    return answer.text


def _execute(user: User, host: hosts.SandboxHost, container_id: str, script: str) -> str:
    parameters = {'command': f"sh -c '{script}'", 'run': 'true', 'interactive': 'false'}
    return _ask(user, host, 'POST', f'/containers/{container_id}/execute', params=parameters)


def test_a_sandbox_is_on_its_host_only(space: Workspace, here: str, there: str) -> None:
    for server, host, elsewhere in ((here, FIRST, SECOND), (there, SECOND, FIRST)):
        assert space.admin.compute.get_server(server).compute_host == host.name
        (pause,) = host.containers(server, contract.ROLE_PAUSE)
        assert pause.status == 'running'
        assert not elsewhere.containers(server)
        assert host.sandboxes().read(server)
        digits = server.replace('-', '')
        assert any(digits in path for path in host.control_groups())
        assert not any(digits in path for path in elsewhere.control_groups())


def test_a_container_there_is_made_and_kept_by_the_agent_there(
    space: Workspace, there: str
) -> None:
    user = space.user
    one = space.running(sandbox=there)  # the catalogue names the first host's agent
    assert space.admin.show(one).host == SECOND.name
    assert one in {each.labels.get(contract.LABEL_CONTAINER) for each in SECOND.containers(there)}
    assert user.shell(one, 'echo relayed') == 'relayed\n'
    user.containers.stop(one, timeout=2)
    user.wait(one, 'Stopped')
    user.containers.start(one)
    user.wait(one, 'Running')
    space.remove([one])
    assert len(SECOND.containers(there)) == 1


def test_any_agent_takes_any_request(space: Workspace, here: str, there: str) -> None:
    on_host = {FIRST: space.running(sandbox=here), SECOND: space.running(sandbox=there)}
    for asked in (FIRST, SECOND):
        for container_id in on_host.values():
            assert container_id in _ask(space.user, asked, 'GET', f'/containers/{container_id}')
            assert 'hello' in _execute(space.user, asked, container_id, 'echo hello')


def test_one_network_on_two_hosts(space: Workspace, here: str, there: str) -> None:
    user = space.user
    web, client = space.running('nginx', sandbox=there), space.running(sandbox=here)
    back = space.running(sandbox=there)
    at = address(user, there)
    user.shell(client, f'ping -c 2 -W 2 {at}')
    user.shell(back, f'ping -c 2 -W 2 {address(user, here)}')
    user.shell(back, f'ping -c 2 -W 2 {gateway(user)}')
    wait_until(
        'nginx of the other host',
        lambda: user.execute(client, f'timeout 3 wget -q -O /dev/null http://{at}/')[1] == 0,
        timeout=10,
    )
    # more than fits in one packet, and whole
    user.shell(web, 'head -c 3000000 /dev/urandom > /var/www/html/bytes')
    whole = user.shell(web, 'md5sum < /var/www/html/bytes')
    assert user.shell(client, f'wget -q -O - http://{at}/bytes | md5sum') == whole


def test_metadata_there(space: Workspace, there: str) -> None:
    one = space.running(sandbox=there)
    said = space.user.shell(
        one, 'wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json'
    )
    assert there in said


def _of(container_id: str, sandbox: str) -> hosts.Container:
    """Return a container of a sandbox of the second host."""
    labels = {found.labels.get(contract.LABEL_CONTAINER): found for found in _containers(sandbox)}
    return labels[container_id]


def _containers(sandbox: str) -> list[hosts.Container]:
    return SECOND.containers(sandbox, contract.ROLE_CONTAINER)


def test_what_its_newer_engine_is_asked_for(space: Workspace, there: str) -> None:
    user = space.user
    says = ['sh', '-c', 'echo out; echo error >&2; while sleep 0.1; do echo tick; done']
    one = space.running(sandbox=there, command=says, memory='32')
    wait_until('it speaks', lambda: 'tick' in user.logs(one), timeout=10)
    assert user.logs(one, stderr=False).startswith('out\ntick\n')
    assert user.logs(one, stdout=False) == 'error\n'
    assert user.execute(one, 'echo word; exit 3') == ('word\n', 3)
    titles, rows = (user.containers.top(one)[key] for key in ('Titles', 'Processes'))
    assert any(row[titles.index('CMD')].startswith('sh -c echo out') for row in rows)
    stats = user.containers.stats(one)
    assert stats['MEM LIMIT(MiB)'] == pytest.approx(32, abs=0.1)
    assert 0 < stats['MEM USAGE(MiB)'] < 32
    user.containers.update(one, memory='48')

    def memory() -> int:
        return int(_of(one, there).attrs['HostConfig']['Memory'])

    wait_until('another limit', lambda: memory() == 48 << 20, timeout=10)
    user.containers.pause(one)
    user.wait(one, 'Paused')
    assert _of(one, there).status == 'paused'
    lines = user.logs(one)
    stays('frozen', lambda: user.logs(one) == lines, seconds=0.6)
    user.containers.unpause(one)
    user.wait(one, 'Running')
    wait_until('it goes on', lambda: user.logs(one) != lines, timeout=5)


def test_a_snapshot_there_brings_back_what_was_written(space: Workspace) -> None:
    user, server = space.user, space.server(host=SECOND.name)
    one = space.running(sandbox=server)
    user.shell(one, 'echo written > /kept')
    image = user.compute.create_server_image(server, space.name('snapshot'), wait=True, timeout=90)
    space.finally_do(user.image.delete_image, image.id)
    user.shell(one, 'echo later > /kept')
    before = _of(one, server).id
    user.compute.rebuild_server(server, image=image.id)
    wait_until(
        'another container',
        lambda: before not in {found.id for found in _containers(server)} and _containers(server),
        timeout=60,
    )
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running', timeout=30)
    assert user.shell(one, 'cat /kept') == 'written\n'


def test_its_reboot(space: Workspace, there: str) -> None:
    user = space.user
    one = space.running(sandbox=there)
    (pause,) = SECOND.containers(there, contract.ROLE_PAUSE)
    SECOND.engine().close()  # its kept connections would end with the engine, and stay open here
    settings.allinone('restart', 'host-2')

    def began_again() -> bool:
        (again,) = SECOND.containers(there, contract.ROLE_PAUSE)
        return bool(again.attrs['State']['StartedAt'] != pause.attrs['State']['StartedAt'])

    # The agent may not have looked yet when it answers again.
    wait_until('its sandbox began again', began_again, timeout=60)
    user.wait(one, 'Running', timeout=60)
    # nova-compute does not wait for Neutron before it listens, and its agent has just started, too
    ping = f'ping -c 1 -W 1 {gateway(user)}'
    wait_until('the gateway', lambda: user.execute(one, ping)[1] == 0, timeout=30)


def test_both_hosts_are_listed(admin: User) -> None:
    names = {FIRST.name, SECOND.name}
    assert {service.host for service in admin.zun.services.list()} >= names
    services = admin.compute.services(binary='nova-compute')
    assert {service.host for service in services if service.state == 'up'} >= names
    agents = admin.network.agents(agent_type='Open vSwitch agent')
    assert {agent.host for agent in agents if agent.is_alive} >= names


def test_status_and_restart_know_its_services(admin: User) -> None:
    settings.allinone('restart', 'nova-compute-2', 'zun-agent-2')
    shown = settings.allinone('status')
    for service in ('host-2', 'dockerd-2', 'vswitchd-2', 'nova-compute-2', 'zun-agent-2'):
        (line,) = [line for line in shown.splitlines() if line.split()[0] == service]
        assert line.split()[2] == 'running', shown
