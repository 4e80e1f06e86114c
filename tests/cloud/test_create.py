"""What can be asked of a container when it is made, and what is refused and why."""

from __future__ import annotations

import contextlib
import typing

import pytest
from zunclient.common.apiclient import exceptions as errors

from tests.cloud import host
from tests.cloud.cloud import NotFound, Workspace, shown_addresses, wait_server_gone


def test_everything_about_the_process(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.run(
        sandbox=sandbox,
        name=space.name('spec'),
        entrypoint=['sh', '-c'],
        command=['echo "$COLOUR $(pwd) $0 $1"; hostname', 'first word', 'second'],
        environment={'COLOUR': 'green', 'EMPTY': ''},
        workdir='/tmp',
        labels={'app': 'web', 'tier': 'front'},
    )
    shown = user.wait(one, 'Stopped')
    name = user.compute.get_server(sandbox).name
    assert user.logs(one).splitlines() == ['green /tmp first word second', name]
    assert shown.command == [
        'echo "$COLOUR $(pwd) $0 $1"; hostname',
        'first word',
        'second',
    ]
    assert shown.entrypoint == ['sh', '-c']
    assert shown.environment == {'COLOUR': 'green', 'EMPTY': ''}
    assert shown.workdir == '/tmp'
    assert shown.labels == {'app': 'web', 'tier': 'front'}
    assert shown.image == 'alpine'
    assert shown.image_driver == 'docker'
    assert shown.project_id == user.project_id
    assert 'app' not in host.container(one).labels  # which tools on the host might obey


def test_users_labels_cannot_pass_for_ours(space: Workspace, sandbox: str) -> None:
    from zun_virt import sandbox as contract

    forged = {contract.LABEL_CONTAINER: 'x', contract.LABEL_ROLE: contract.ROLE_PAUSE}
    try:
        one = space.running(sandbox=sandbox, labels=forged)
    except errors.BadRequest:
        return
    assert host.container(one).labels[contract.LABEL_ROLE] == contract.ROLE_CONTAINER


def test_default_command_of_the_image(space: Workspace, sandbox: str) -> None:
    one = space.running('nginx', sandbox=sandbox)
    assert 'nginx' in ' '.join(space.user.containers.top(one)['Processes'][0])


def test_terminal(space: Workspace, sandbox: str) -> None:
    user = space.user
    with_tty = space.running(sandbox=sandbox, command=['sh'], interactive=True, tty=True)
    assert user.show(with_tty).tty is True
    config = host.container(with_tty).attrs['Config']
    assert (config['Tty'], config['OpenStdin']) == (True, True)
    only_input = space.running(sandbox=sandbox, command=['cat'], interactive=True, tty=False)
    config = host.container(only_input).attrs['Config']
    assert (config['Tty'], config['OpenStdin']) == (False, True)


def test_no_privilege(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox)
    config = host.container(one).attrs['HostConfig']
    assert config['Privileged'] is False
    assert config['CapDrop'] == ['ALL']
    status = space.user.shell(one, 'grep CapEff /proc/self/status').split()[1]
    held = {number for number in range(41) if int(status, 16) >> number & 1}
    # of Docker's own set: neither MKNOD (27) nor AUDIT_WRITE (29)
    assert held <= {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 31}
    with pytest.raises((errors.Forbidden, errors.BadRequest)):
        space.run(sandbox=sandbox, privileged=True)


REFUSED: dict[str, tuple[dict[str, typing.Any], int, str]] = {
    'bad name': ({'name': 'no spaces'}, 400, 'name'),
    'bad command': ({'command': 'text'}, 400, 'command'),
    'too little memory': ({'memory': '1'}, 400, 'memory'),
    'too much memory for any sandbox': ({'memory': '8000'}, 400, 'flavor'),
    'unknown network': ({'nets': [{'network': 'no-such-net'}]}, 404, 'no-such-net'),
    'unknown port': (
        {'nets': [{'port': '11111111-2222-3333-4444-555555555555'}]},
        404,
        '11111111',
    ),
    'unknown flavor': ({'hints': {'flavor': 'no-such-flavor'}}, 400, 'no-such-flavor'),
    'flavor of a VM': ({'hints': {'flavor': 'm1.nano'}}, 400, 'm1.nano'),
    'unknown sandbox': ({'hints': {'sandbox': 'no-such-box'}}, 404, 'no-such-box'),
    'unknown security group': ({'security_groups': ['no-such-group']}, 400, 'no-such-group'),
    'unknown image driver': ({'image_driver': 'floppy'}, 400, 'floppy'),
    'unknown zone': ({'availability_zone': 'no-such-zone'}, 400, 'zone'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused_by_the_api(space: Workspace, case: str) -> None:
    spec, status, word = REFUSED[case]
    name = spec.get('name') or space.name('refused')
    answer = space.user.request(
        'POST', '/v1/containers?run=true', json={'image': 'alpine', **spec, 'name': name}
    )
    with contextlib.suppress(KeyError):
        space.adopt(answer.json()['uuid'])
    assert answer.status_code == status, answer.text
    (error,) = answer.json()['errors']
    assert error['status'] == status
    assert word in error['detail'], error
    assert not [one for one in space.user.containers.list() if one.name == name]


@pytest.mark.parametrize(
    ('spec', 'numbers'),
    [({'memory': '512'}, ('512', '128')), ({'cpu': 4}, ('4', '1'))],
    ids=['memory', 'cpu'],
)
def test_more_than_the_sandbox_has(
    space: Workspace, sandbox: str, spec: dict[str, typing.Any], numbers: tuple[str, str]
) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        space.run(sandbox=sandbox, **spec)
    assert all(number in str(caught.value) for number in numbers), caught.value


@pytest.mark.parametrize(
    'spec',
    [
        {'nets': [{'network': 'private'}]},
        {'security_groups': ['default']},
        {'availability_zone': 'nova'},
        {'hints': {'flavor': 'sandbox.tiny'}},
    ],
    ids=['nets', 'security groups', 'zone', 'flavor'],
)
def test_what_is_the_sandboxs_cannot_be_asked_for_in_one(
    space: Workspace, sandbox: str, spec: dict[str, typing.Any]
) -> None:
    with pytest.raises(errors.BadRequest):
        space.run(sandbox=sandbox, **spec)


def test_sandbox_that_is_stopped_or_locked_or_named_twice(space: Workspace) -> None:
    user, name = space.user, space.name('box')
    first = space.server(name)
    user.compute.stop_server(first)
    space.until_server(first, 'SHUTOFF')
    with pytest.raises(errors.Conflict, match=r'(?i)shutoff|stopped'):
        space.run(sandbox=first)
    user.compute.start_server(first)
    space.until_server(first, 'ACTIVE')
    user.compute.lock_server(first)
    try:
        with pytest.raises(errors.Conflict, match='lock'):
            space.run(sandbox=first)
    finally:
        user.compute.unlock_server(first)
    space.server(name)
    with pytest.raises(errors.Conflict, match=name):
        space.run(sandbox=name)


def test_smallest_flavor_that_holds_what_is_asked(space: Workspace) -> None:
    user = space.user
    small = space.run(cpu=1, memory='100', command=['sleep', '3600'])
    large = space.run(cpu=1.5, memory='600', command=['sleep', '3600'])
    named = space.run(hints={'flavor': 'sandbox.small'}, command=['sleep', '3600'])
    for one, flavor in (
        (small, 'sandbox.tiny'),
        (large, 'sandbox.medium'),
        (named, 'sandbox.small'),
    ):
        user.wait(one, 'Running')
        assert user.compute.get_server(one).flavor['original_name'] == flavor


def test_container_with_its_own_sandbox_is_its_server(space: Workspace) -> None:
    user = space.user
    one = space.running(name=space.name('own'), hostname='webserver', memory='64')
    (port,) = user.network.ports(device_id=one)
    assert shown_addresses(user, one) == {
        port.network_id: [
            {
                'addr': port.fixed_ips[0]['ip_address'],
                'version': 4,
                'port': port.id,
                'subnet_id': port.fixed_ips[0]['subnet_id'],
                'preserve_on_delete': False,
            }
        ]
    }
    assert user.shell(one, 'hostname') == 'webserver\n'
    assert user.show(one).hostname == 'webserver'
    user.containers.delete(one, stop=True)
    user.wait(one, 'gone')
    wait_server_gone(user, one)


def test_sandbox_of_a_container_stays_while_others_live_in_it(space: Workspace) -> None:
    user = space.user
    owner = space.running()
    guest = space.running(sandbox=owner)
    assert guest != owner
    user.containers.stop(owner, timeout=5)
    user.wait(owner, 'Stopped')
    with pytest.raises(errors.Conflict, match=guest):
        user.containers.delete(owner)
    assert user.status(guest) == 'Running'
    user.containers.delete(guest, stop=True)
    user.wait(guest, 'gone')
    user.containers.delete(owner)
    user.wait(owner, 'gone')


def test_auto_remove_takes_the_sandbox_with_it(space: Workspace) -> None:
    user = space.user
    one = space.run(command=['sleep', '1'], auto_remove=True)
    user.wait(one, 'gone', timeout=90)
    wait_server_gone(user, one)
    with pytest.raises(NotFound):
        user.show(one)


def test_many_at_once(space: Workspace, sandbox: str) -> None:
    made = [space.run(sandbox=sandbox, command=['sleep', '3600']) for _ in range(8)]
    for one in made:
        space.user.wait(one, 'Running')
    assert all(len(host.copies(one)) == 1 for one in made)
