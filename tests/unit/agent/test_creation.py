"""What Docker is asked for, of what the user asked for."""

import pytest

from tests.unit.agent.test_decision import container, record
from zun_agent import creation
from zun_virt import sandbox as contract

SETTINGS = creation.Settings(log_max_size=7, log_max_files=2)


def build(**fields):
    return creation.build_create(container(**fields), record(), 'image:tag', SETTINGS)


def test_it_lives_in_its_sandbox():
    body = build()
    host = body['HostConfig']
    joined = 'container:pause-id'
    assert (host['NetworkMode'], host['IpcMode'], host['PidMode']) == (joined,) * 3
    assert host['VolumesFrom'] == ['pause-id']
    assert host['CgroupParent'] == '/zun/abc'
    assert body['Image'] == 'image:tag'


@pytest.mark.parametrize(
    ('fields', 'member', 'value'),
    [
        ({'command': ['ping', 'x']}, 'Cmd', ['ping', 'x']),
        ({'entrypoint': ['/x']}, 'Entrypoint', ['/x']),
        ({'environment': {'A': 'b=c', 'D': ''}}, 'Env', ['A=b=c', 'D=']),
        ({'workdir': '/srv'}, 'WorkingDir', '/srv'),
        ({'tty': True}, 'Tty', True),
        ({'interactive': True}, 'OpenStdin', True),
    ],
)
def test_what_is_asked_for(fields, member, value):
    assert build(**fields)[member] == value


@pytest.mark.parametrize('member', ['Cmd', 'Entrypoint', 'WorkingDir'])
def test_what_is_not_asked_for_is_the_images(member):
    assert member not in build(command=None)


@pytest.mark.parametrize('member', ['Hostname', 'Domainname', 'MacAddress', 'ExposedPorts', 'User'])
def test_what_conflicts_with_a_shared_network_is_never_asked_for(member):
    assert member not in build()


def test_it_may_little():
    host = build()['HostConfig']
    assert host['Privileged'] is False
    assert host['CapDrop'] == ['ALL']
    assert 'NET_RAW' in host['CapAdd']
    assert not {'NET_ADMIN', 'SYS_ADMIN', 'SYS_PTRACE', 'MKNOD'} & set(host['CapAdd'])
    assert not {'Binds', 'Mounts', 'Devices', 'SecurityOpt', 'Sysctls'} & host.keys()


def test_docker_neither_restarts_nor_judges_it():
    body = build(restart_policy={'Name': 'always'})
    assert body['HostConfig']['RestartPolicy'] == {'Name': 'no'}
    assert body['Healthcheck'] == {'Test': ['NONE']}


def test_its_log_is_limited():
    assert build()['HostConfig']['LogConfig'] == {
        'Type': 'json-file',
        'Config': {'max-size': '7m', 'max-file': '2'},
    }


@pytest.mark.parametrize(('disk', 'label'), [(7, '7'), (None, ''), (0, '')])
def test_a_container_is_labelled_with_the_disk_that_it_asked_for(disk, label):
    # Without a label of ours Docker would take that of its image.
    assert build(disk=disk)['Labels'][contract.LABEL_DISK] == label


def test_a_users_labels_cannot_pass_for_ours():
    labels = build(labels={contract.LABEL_SANDBOX: 'forged', 'traefik.enable': 'true'})['Labels']
    assert labels[contract.LABEL_SANDBOX] == record().instance_id
    assert labels[contract.LABEL_ROLE] == contract.ROLE_CONTAINER
    assert 'traefik.enable' not in labels
    assert labels[creation.LABEL_NAMESPACE + 'traefik.enable'] == 'true'


@pytest.mark.parametrize(
    ('cpu', 'memory', 'expected'),
    [
        (None, None, (0, 0, 0, 0)),
        (0.5, None, (0, 0, 100_000, 50_000)),
        (2, 64, (64 << 20, 64 << 20, 100_000, 200_000)),
    ],
)
def test_limits(cpu, memory, expected):
    found = creation.resources(container(cpu=cpu, memory=memory))
    assert tuple(found.values()) == expected


@pytest.mark.parametrize(
    ('own', 'sandboxs', 'enforced', 'size'),
    [
        (3, 10, True, '3G'),
        (None, 10, True, '10G'),
        (None, None, True, None),
        (3, 10, False, None),
    ],
)
def test_what_it_may_write_where_docker_can_hold_it_to_that(own, sandboxs, enforced, size):
    limits = contract.Limits(cpus=1, memory_mb=64, pids=9, disk_gb=sandboxs, disk_enforced=enforced)
    body = creation.build_create(
        container(disk=own), record().replace(limits=limits), 'image:tag', SETTINGS
    )
    assert body['HostConfig'].get('StorageOpt') == ({'size': size} if size else None)


def test_it_bears_the_name_that_its_user_gave_it():
    assert build(name='web')['Labels'][contract.LABEL_NAME] == 'web'


def test_a_sandbox_without_a_pause_container_is_none():
    with pytest.raises(ValueError, match='no pause container'):
        creation.build_create(container(), record(pause=None), 'i', SETTINGS)


@pytest.mark.parametrize(
    'asked',
    [{'cpu': None, 'memory': None}, {'cpu': 0.25, 'memory': None}, {'cpu': 2, 'memory': 64}],
)
def test_limits_are_read_back_from_docker(asked):
    assert creation.limits(creation.resources(container(**asked))) == asked
    assert creation.limits({}) == {'cpu': None, 'memory': None}
