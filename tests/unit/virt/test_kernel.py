"""The kernel's own answer to what is asked of it for an interface, in a namespace of the test's."""

import json
import os
import pathlib
import subprocess
import time
import uuid

import pytest

from zun_virt import privsep
from zun_virt.privsep import interfaces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='only root can make namespaces')

MAC = 'fa:16:3e:aa:00:01'
ROUTES = [['0.0.0.0/0', '10.7.0.1'], ['::/0', 'fd07::1']]


@pytest.fixture
def space(monkeypatch):
    """A process in a network namespace of its own, and the name of a device for it."""
    process = subprocess.Popen(['unshare', '--net', 'sleep', '60'])
    own = pathlib.Path('/proc/self/ns/net').readlink()
    deadline = time.monotonic() + 5
    while pathlib.Path(f'/proc/{process.pid}/ns/net').readlink() == own:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            pytest.skip('this machine lets nobody make a namespace')
        time.sleep(0.01)
    device = f'tap{uuid.uuid4().hex}'[:14]
    # What would be done by a privileged process is done here.
    monkeypatch.setattr(privsep.network, 'client_mode', False)
    yield process.pid, device
    interfaces.unplug(device)
    process.kill()
    process.wait()


def plug(space, addresses, stale=(), routes=ROUTES, mtu=1450):
    pid, device = space
    request = {
        'mac': MAC,
        'mtu': mtu,
        'addresses': list(addresses),
        'stale': list(stale),
        'routes': [list(route) for route in routes],
        'accept_ra': False,
    }
    return interfaces.plug(pid, device, request)


def ip(space, *words):
    command = ['nsenter', '-t', str(space[0]), '-n', 'ip', '-json', *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    return json.loads(done.stdout)


def addresses(space):
    (link,) = ip(space, 'addr', 'show', 'dev', 'eth0')
    return {f'{a["local"]}/{a["prefixlen"]}' for a in link['addr_info'] if a['scope'] == 'global'}


def routes(space):
    found = ip(space, 'route') + ip(space, '-6', 'route')
    return {(r['dst'], r.get('gateway')) for r in found if r.get('protocol') != 'kernel'}


@pytest.mark.parametrize(
    ('before', 'after', 'stale', 'seen'),
    [
        (['10.7.0.5/24'], ['10.7.0.5/24'], [], ['10.7.0.5/24']),
        # The first address of a subnet goes, the others stay.
        (['10.7.0.5/24'], ['10.7.0.6/24'], ['10.7.0.5/24'], ['10.7.0.6/24']),
        (
            ['10.7.0.5/24', '10.7.0.6/24', '10.7.0.7/24'],
            ['10.7.0.6/24', '10.7.0.7/24'],
            ['10.7.0.5/24'],
            ['10.7.0.6/24', '10.7.0.7/24'],
        ),
        (['fd07::5/64'], ['fd07::6/64'], ['fd07::5/64'], ['fd07::6/64']),
        (['10.7.0.5/24'], [], ['10.7.0.5/24'], []),
        # Nobody said that this one was Neutron's.
        (['10.7.0.5/24'], ['10.7.0.6/24'], [], ['10.7.0.5/24', '10.7.0.6/24']),
        (['10.7.0.5/24'], ['10.7.0.6/24'], ['10.7.0.5/24', '10.7.0.9/24'], ['10.7.0.6/24']),
    ],
)
def test_addresses_follow(space, before, after, stale, seen):
    assert plug(space, before) == 'eth0'
    assert plug(space, after, stale) == 'eth0'
    assert addresses(space) == set(seen)


def test_routes_follow(space):
    plug(space, ['10.7.0.5/24', 'fd07::5/64'], routes=[*ROUTES, ['10.99.0.0/16', None]])
    assert routes(space) == {
        ('default', '10.7.0.1'),
        ('default', 'fd07::1'),
        ('10.99.0.0/16', None),
    }
    wanted = [['0.0.0.0/0', '10.7.0.2'], ['192.0.2.0/24', '10.7.0.9'], ['fd99::/64', 'fd07::9']]
    plug(space, ['10.7.0.6/24', 'fd07::5/64'], ['10.7.0.5/24'], wanted)
    assert routes(space) == {
        ('default', '10.7.0.2'),
        ('192.0.2.0/24', '10.7.0.9'),
        ('fd99::/64', 'fd07::9'),
    }


def test_what_is_there_is_kept(space):
    plug(space, ['10.7.0.5/24'])
    (before,) = ip(space, 'link', 'show', 'dev', 'eth0')
    plug(space, ['10.7.0.5/24'], mtu=1400)
    (after,) = ip(space, 'link', 'show', 'dev', 'eth0')
    assert (after['ifindex'], after['mtu']) == (before['ifindex'], 1400)
    assert after['address'] == MAC


def test_an_interface_goes_with_its_other_end(space):
    plug(space, ['10.7.0.5/24'])
    interfaces.unplug(space[1])
    assert not interfaces.device_exists(space[1])
    assert {link['ifname'] for link in ip(space, 'link')} == {'lo'}
    interfaces.unplug(space[1])
