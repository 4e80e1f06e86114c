"""Starts, passes over the ports and attachments of one sandbox that meet."""

import threading

import pytest
from nova.network import model

from tests.unit.virt.conftest import make_instance, make_subnet, make_vif, record, spawn
from zun_virt import sandbox


class Start:
    """A start of the server, in another thread, that waits until Neutron has wired its port."""

    def __init__(self, zun, virtapi, server):
        self.plugged, self.wired = threading.Event(), threading.Event()
        virtapi.outcome = self.wait
        (vif,) = server.get_network_info()
        # As nova has it where the pass has read that there is no task before it began.
        self.thread = threading.Thread(target=zun.power_on, args=(None, server, [vif], {}))

    def wait(self, *_arguments):
        self.plugged.set()
        assert self.wired.wait(10)

    def __enter__(self):
        self.thread.start()
        assert self.plugged.wait(10)
        return self

    def __exit__(self, *_error):
        self.wired.set()
        self.thread.join(10)


@pytest.fixture
def server(zun, machine):
    """A server that runs and has one port."""
    vif = make_vif()
    instance = spawn(zun, make_instance(), [vif])
    instance.vm_state = 'active'
    instance.info_cache.network_info = model.NetworkInfo([vif])
    machine.ports.tell(instance, vif)
    return instance


@pytest.fixture
def stopped(zun, server):
    zun.power_off(server)
    server.vm_state = 'stopped'
    zun._recovery.nova_listens = True
    return server


def changed():
    """Return the server's port with another address."""
    return make_vif(subnets=[make_subnet(ips=['10.0.0.77'])])


def devices(machine):
    return {entry['name']: entry for entry in machine.kernel.devices.values()}


def state(machine, instance):
    return record(machine, instance).state


def test_a_pass_leaves_a_start_alone(zun, machine, virtapi, stopped):
    with Start(zun, virtapi, stopped):
        before = devices(machine)['eth0']['made']
        machine.ports.tell(stopped, changed())
        zun._follow_ports()
        # The agent would start its containers in what Neutron has not wired.
        assert state(machine, stopped) is sandbox.State.BUILDING
        assert devices(machine)['eth0']['made'] == before
    assert state(machine, stopped) is sandbox.State.READY
    zun._follow_ports()
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.77/24']


@pytest.mark.parametrize('act', ['plug_vifs', 'attach_interface', 'detach_interface'])
def test_whoever_plugs_waits_for_a_start(zun, machine, virtapi, stopped, act):
    (vif,) = stopped.get_network_info()
    arguments = {
        'plug_vifs': (stopped, [vif]),
        'attach_interface': (None, stopped, None, make_vif(2)),
        'detach_interface': (None, stopped, vif),
    }
    other = threading.Thread(target=getattr(zun, act), args=arguments[act])
    with Start(zun, virtapi, stopped):
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert state(machine, stopped) is sandbox.State.BUILDING
        assert set(devices(machine)) == {'eth0'}
    other.join(10)
    assert not other.is_alive()
    assert state(machine, stopped) is sandbox.State.READY


def test_a_start_waits_for_a_pass(zun, machine, virtapi, stopped, monkeypatch):
    """Both at a time would take each other's devices away."""
    at_work, go_on = threading.Event(), threading.Event()

    def refresh(instance):
        at_work.set()
        assert go_on.wait(10)

    monkeypatch.setattr(machine.ports, 'refresh', refresh)
    machine.ports.tell(stopped, changed())
    looking = threading.Thread(target=zun._follow_ports)
    looking.start()
    assert at_work.wait(10)
    start = Start(zun, virtapi, stopped)
    start.thread.start()
    assert not start.plugged.wait(0.3)
    go_on.set()
    looking.join(10)
    assert start.plugged.wait(10)
    start.wired.set()
    start.thread.join(10)
    assert state(machine, stopped) is sandbox.State.READY


def test_a_pass_makes_nothing_ready_of_which_a_start_was_cut_off(zun, machine, server):
    machine.store.write(record(machine, server).replace(state=sandbox.State.BUILDING))
    machine.ports.tell(server, changed())
    zun._follow_ports()
    assert state(machine, server) is sandbox.State.BUILDING
    assert devices(machine)['eth0']['addresses'] == ['10.0.0.5/24']
