"""nova-compute killed before and after every step that leaves its process.

After the kill nothing more is done, no undoing either; then another nova-compute starts on the
host as it is and does what nova has it do.
"""

import contextlib
import functools
from unittest import mock

import pytest

from tests.unit.virt.conftest import CONF, make_image, make_instance, make_vif, until
from tests.unit.virt.storage import Content, connection
from zun_virt import driver, sandbox
from zun_virt.sandbox import State
from zun_virt.servers import Fate

STORE = ('create', 'write', 'write_file', 'remove')
FREEZER = ('pause', 'unpause')
ENGINE = ('create_container_from_config', 'start', 'stop', 'remove_container', *FREEZER)
SWITCH = ('plug', 'unplug')
VOLUMES = ('connect', 'probe', 'make', 'mount', 'unmount', 'disconnect')


class Killed(BaseException):
    """The process is no more."""


class Reaper:
    """Counts the steps, and ends everything at one of them."""

    def __init__(self, at, *, after):
        self.at, self.after = at, after
        self.steps = 0
        self.dead = False

    def guard(self, step):
        @functools.wraps(step)
        def guarded(*args, **kwargs):
            if self.dead:
                raise Killed
            self.steps += 1
            doomed = self.steps == self.at
            if doomed and not self.after:
                self.dead = True
                raise Killed
            found = step(*args, **kwargs)
            if doomed:
                self.dead = True
                raise Killed
            return found

        return guarded


@contextlib.contextmanager
def dying(machine, reaper):
    """Let the reaper count what leaves the process."""
    with contextlib.ExitStack() as stack:
        for target, names in (
            (sandbox.SandboxStore, STORE),
            (machine.docker, ENGINE),
        ):
            for name in names:
                guarded = reaper.guard(getattr(target, name))
                stack.enter_context(mock.patch.object(target, name, guarded))
        for module, fake, names in (
            ('zun_virt.privsep.interfaces', machine.kernel, ('plug',)),
            ('zun_virt.privsep.cgroups', machine.kernel, ('make_cgroup', 'remove_cgroup')),
            ('os_vif', machine.switch, SWITCH),
            ('zun_virt.privsep.filesystems', machine.storage, VOLUMES),
        ):
            for name in names:
                guarded = reaper.guard(getattr(fake, name))
                stack.enter_context(mock.patch(f'{module}.{name}', guarded))
        yield


@pytest.fixture
def compute(machine, virtapi, zun):
    """Return a function that starts another nova-compute on the machine."""
    started = []

    def start():
        found = driver.ZunDriver(virtapi)
        found.init_host('host1')
        started.append(found)
        return found

    yield start
    for found in started:
        found.cleanup_host('host1')


def described(vif):
    instance = make_instance(vm_state='active')
    instance.info_cache.network_info.append(vif)
    return instance


def spawn(zun, instance, vif):
    zun.spawn(None, instance, make_image(), [], None, {}, network_info=[vif])


def dies(machine, at, after, act):
    """Do something that is killed at a step; returns whether it came to that step."""
    reaper = Reaper(at, after=after)
    with dying(machine, reaper), contextlib.suppress(Killed):
        act()
    return reaper.dead


def every_step(machine, prepare, act, check):
    """Try the kill at every step, before and after it."""
    for after in (False, True):
        at = 1
        while True:
            prepared = prepare()
            came = dies(machine, at, after, lambda prepared=prepared: act(*prepared))
            if not came:
                break
            check(*prepared)
            at += 1
        assert at > 3


def test_spawn(zun, machine, compute):
    """Nova calls the server ERROR, and its user deletes it."""
    vif = make_vif()

    def check(instance):
        compute().destroy(None, instance, [vif])
        assert machine.leftovers() == {}

    def prepare():
        machine.docker.containers_.clear()
        for instance_id in machine.store.ids():
            zun.destroy(None, make_instance(uuid=instance_id), [vif])
        return (described(vif),)

    every_step(machine, prepare, lambda instance: spawn(zun, instance, vif), check)


def test_spawn_of_a_server_that_is_deleted_before_nova_compute_is_back(zun, machine, compute):
    vif = make_vif()
    CONF.set_override('orphan_grace', 0, group='zun_virt')

    def check(instance):
        machine.servers.fates[instance.uuid] = Fate.DELETED
        compute()._orphans.look_around()
        assert machine.leftovers() == {}

    def prepare():
        for instance_id in machine.store.ids():
            zun.destroy(None, make_instance(uuid=instance_id), [vif])
        return (described(vif),)

    try:
        every_step(machine, prepare, lambda instance: spawn(zun, instance, vif), check)
    finally:
        CONF.clear_override('orphan_grace', group='zun_virt')


@pytest.fixture
def running(zun, machine):
    """Return a function that makes a sandbox with a container in it."""
    vif = make_vif()

    def make():
        for instance_id in machine.store.ids():
            zun.destroy(None, make_instance(uuid=instance_id), [vif])
        instance = described(vif)
        spawn(zun, instance, vif)
        return instance, machine.add_container(instance.uuid), vif

    return make


def test_stop(zun, machine, compute, running):
    """Nova repeats it, and what ran then runs after the start."""

    def check(instance, ran, vif):
        again = compute()
        again.power_off(instance, 0, 0)
        record = machine.store.read(instance.uuid)
        assert (record.state, record.running) == (State.STOPPED, (ran,))
        again.power_on(None, instance, [vif])
        record = machine.store.read(instance.uuid)
        assert (record.state, record.running) == (State.READY, (ran,))
        assert list(machine.kernel.devices) == list(machine.switch.ports) == [vif['devname']]
        assert not machine.switch.stale

    every_step(machine, running, lambda instance, *_: zun.power_off(instance, 0, 0), check)


def test_destroy(zun, machine, compute, running):
    """Nova repeats it, with no port in the cache that it has given up."""

    def check(instance, ran, vif):
        compute().destroy(None, instance, [vif])
        assert machine.leftovers() == {}

    every_step(
        machine, running, lambda instance, _ran, vif: zun.destroy(None, instance, [vif]), check
    )


def states(machine, instance, *containers):
    names = [sandbox.sandbox_name(instance.uuid), *map(sandbox.container_name, containers)]
    return [machine.docker.named(name)['State']['Status'] for name in names]


@pytest.mark.parametrize('said', ['active', 'paused', 'suspended'])
@pytest.mark.parametrize('cut', ['pause', 'unpause'])
def test_freeze_and_thaw(zun, machine, compute, running, cut, said):
    """What Nova says then decides, and what a user froze stays frozen."""

    def prepare():
        instance, ran, vif = running()
        own = machine.add_container(instance.uuid)
        machine.docker.pause(sandbox.container_name(own))
        if cut == 'unpause':
            zun.pause(instance)
        return instance, ran, own, vif

    def check(instance, ran, own, vif):
        instance.vm_state = said
        machine.servers.all.clear()
        machine.servers.add(instance)
        again = compute()
        again.plug_vifs(instance, [vif])
        again._recovery.begin()
        again._recovery.look_around()
        wanted = 'running' if said == 'active' else 'paused'
        until(lambda: states(machine, instance, ran, own) == [wanted, wanted, 'paused'])
        until(lambda: not again._recovery._at_work)
        state = State.READY if said == 'active' else State.PAUSED
        assert machine.store.read(instance.uuid).state is state
        again.unpause(instance)
        assert states(machine, instance, ran, own) == ['running', 'running', 'paused']
        assert machine.store.read(instance.uuid).state is State.READY

    every_step(machine, prepare, lambda instance, *_: getattr(zun, cut)(instance), check)


def test_attach(zun, machine, compute, running):
    """Nova's cache names the port when it looks again, and the start of nova-compute plugs it."""
    more = make_vif(2)

    def check(instance, ran, vif):
        compute().plug_vifs(instance, [vif, more])
        record = machine.store.read(instance.uuid)
        assert record.state is State.READY
        assert {address.port_id for address in record.addresses} == {vif['id'], more['id']}
        assert set(machine.kernel.devices) == {vif['devname'], more['devname']}
        assert set(machine.switch.ports) == set(machine.kernel.devices)
        assert not machine.switch.stale
        zun.unplug_vifs(instance, [vif, more])
        assert machine.kernel.devices == machine.switch.ports == {}

    every_step(
        machine,
        running,
        lambda instance, *_: zun.attach_interface(None, instance, None, more),
        check,
    )


VOLUME = '7d0b2f3c-5a49-4c8e-9f10-2b6a8d4e1c35'


@pytest.fixture
def cinder(monkeypatch):
    """A Cinder whose volumes have no properties."""
    none = mock.Mock(get=lambda *_: {})
    monkeypatch.setattr('zun_virt.storage.cinder.API', lambda: none)


def mounted(machine, instance):
    record = machine.store.read(instance.uuid)
    found = machine.storage.at(machine.store.volumes(instance.uuid))
    assert {volume.id for volume in record.volumes} == found
    return found


def test_attach_volume(zun, machine, compute, running, cinder):
    """Whatever was done, it can be done again or undone; no data is made twice."""

    def prepare():
        machine.storage.contents[VOLUME] = Content()
        return running()

    def act(instance, *_):
        zun.attach_volume(None, connection(VOLUME), instance, '/dev/vdb')

    def check(instance, *_):
        again = compute()
        again.attach_volume(None, connection(VOLUME), instance, '/dev/vdb')
        assert mounted(machine, instance) == {VOLUME}
        assert machine.storage.contents[VOLUME].made == 1
        again.detach_volume(None, connection(VOLUME), instance, '/dev/vdb')
        assert mounted(machine, instance) == set()
        assert machine.leftovers_of_volumes() == {}

    every_step(machine, prepare, act, check)


def test_a_volume_that_was_being_attached_goes_with_its_server(
    zun, machine, compute, running, cinder
):
    def act(instance, *_):
        zun.attach_volume(None, connection(VOLUME), instance, '/dev/vdb')

    def check(instance, ran, vif):
        compute().destroy(None, instance, [vif])
        assert machine.storage.mounts == machine.storage.loops == {}
        assert machine.leftovers() == {}

    every_step(machine, running, act, check)


def test_detach_volume(zun, machine, compute, running, cinder):
    """Nova says what it said before, and is asked once more."""

    def prepare():
        machine.storage.contents[VOLUME] = Content('ext4')
        instance, *rest = running()
        zun.attach_volume(None, connection(VOLUME), instance, '/dev/vdb')
        return instance, *rest

    def act(instance, *_):
        zun.detach_volume(None, connection(VOLUME), instance, '/dev/vdb')

    def check(instance, *_):
        compute().detach_volume(None, connection(VOLUME), instance, '/dev/vdb')
        assert mounted(machine, instance) == set()
        assert machine.leftovers_of_volumes() == {}
        assert machine.storage.contents[VOLUME].kind == 'ext4'

    every_step(machine, prepare, act, check)
