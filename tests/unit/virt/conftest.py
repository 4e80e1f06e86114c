"""Nova's objects and a host for the tests of the driver."""

import contextlib
import time
import uuid

import pytest
from nova import conf, objects
from nova.network import model

from tests.unit.virt import archives, fakes
from zun_virt import driver, events, ports, sandbox

CONF = conf.CONF

objects.register_all()


class VirtAPI:
    """Nova's manager, as far as it waits for Neutron."""

    def __init__(self):
        self.awaited = []
        self.inside = []
        self.outcome = None

    @contextlib.contextmanager
    def wait_for_instance_event(self, instance, events, *, timeout, error_callback):
        self.awaited.append((events, timeout))
        yield
        if events and self.outcome:
            self.outcome(events, instance, error_callback)


def make_instance(**changes):
    flavor = {'vcpus': 2, 'memory_mb': 256, 'root_gb': 1, 'extra_specs': {}}
    flavor |= {key: changes.pop(key) for key in list(changes) if key in flavor}
    fields = {
        'id': 7,
        'uuid': str(uuid.uuid4()),
        'project_id': 'p1',
        'user_id': 'u1',
        'host': 'host1',
        'display_name': 'mybox',
        'hostname': 'mybox',
        'vm_state': 'building',
        'metadata': {'zun_intent': 'i1'},
        'system_metadata': {},
        'trusted_certs': None,
        'image_ref': '',
        'task_state': None,
        'migration_context': None,
        'numa_topology': None,
        'config_drive': '',
        'launched_at': None,
    }
    instance = objects.Instance(flavor=objects.Flavor(**flavor), **(fields | changes))
    instance.info_cache = objects.InstanceInfoCache(network_info=model.NetworkInfo([]))
    return instance


def make_vif(number=1, subnets=None, **changes):
    port = f'{number:08x}-aaaa-bbbb-cccc-dddddddddddd'
    if subnets is None:
        subnets = [make_subnet(ips=[f'10.0.0.{number + 4}'])]
    network = model.Network(
        id='11111111-2222-3333-4444-555555555555',
        bridge='br-int',
        label='private',
        subnets=subnets,
        mtu=1450,
    )
    fields = {
        'id': port,
        'address': f'fa:16:3e:00:00:{number:02x}',
        'network': network,
        'type': 'ovs',
        'devname': f'tap{port}'[:14],
        'ovs_interfaceid': port,
        'active': False,
        'delegate_create': True,
        'details': {
            'port_filter': True,
            'ovs_hybrid_plug': False,
            'datapath_type': 'netdev',
            'bridge_name': 'br-int',
        },
    }
    return model.VIF(**(fields | changes))


def make_subnet(cidr='10.0.0.0/24', gateway='10.0.0.1', ips=(), dns=('8.8.8.8',), routes=()):
    version = 6 if ':' in cidr else 4
    return model.Subnet(
        cidr=cidr,
        version=version,
        gateway=model.IP(address=gateway),
        ips=[model.FixedIP(address=ip) for ip in ips],
        dns=[model.IP(address=server) for server in dns],
        routes=[model.Route(cidr=to, gateway=model.IP(address=via)) for to, via in routes],
    )


def make_image(**changes):
    fields = {
        'id': 'e8d6a4b2-0000-1111-2222-333333333333',
        'checksum': 'd41d8cd98f00b204e9800998ecf8427e',
        'container_format': 'docker',
        'disk_format': 'raw',
        'properties': {'img_hv_type': 'docker'},
    }
    return objects.ImageMeta.from_dict(fields | changes)


def spawn(zun, instance, vifs=(), **options):
    zun.spawn(None, instance, make_image(), None, None, None, network_info=list(vifs), **options)
    return instance


def record(machine, instance):
    return machine.store.read(instance.uuid)


def pause(machine, instance):
    return machine.docker.named(sandbox.sandbox_name(instance.uuid))


def until(true, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def runs_again(machine, instance, before):
    found = record(machine, instance)
    return (
        found.state is sandbox.State.READY
        and found.pause != before.pause
        and pause(machine, instance)['State']['StartedAt'] == found.pause.started_at
    )


@pytest.fixture
def vif():
    return make_vif()


@pytest.fixture
def machine(tmp_path):
    with fakes.FakeMachine(tmp_path).installed() as found:
        yield found


@pytest.fixture
def virtapi():
    return VirtAPI()


@pytest.fixture
def zun(machine, virtapi, monkeypatch):
    """The driver, started on the machine."""
    options = {
        'state_path': str(machine.root / 'state'),
        'cgroup_root': str(machine.kernel.cgroups),
        'vif_replug_timeout': 3,
    }
    for name, value in options.items():
        CONF.set_override(name, value, group='zun_virt')
    monkeypatch.setattr(driver.glance, 'API', lambda: machine.glance)
    monkeypatch.setattr(ports, 'Ports', lambda host: machine.ports)
    machine.glance.data[make_image().id] = archives.archive()
    found = driver.ZunDriver(virtapi)
    found.init_host('host1')
    yield found
    found.cleanup_host('host1')
    for name in options:
        CONF.clear_override(name, group='zun_virt')


@pytest.fixture
def heard(zun, monkeypatch):
    """What nova hears of ends."""
    found = []

    def emit(event):
        if event.get_name() == 'Stopped':
            found.append(event.get_instance_uuid())

    monkeypatch.setattr(zun, 'emit_event', emit)
    return found


@pytest.fixture
def server(zun, machine, heard, monkeypatch):
    """A server that runs, on a driver that nova has asked for its resources."""
    monkeypatch.setattr(events, '_STOPPED_SECONDS', 0.2)
    monkeypatch.setattr(zun._watcher._later, '_delay', 0.2)
    until(lambda: machine.docker.streams)
    described = {
        'image_img_hv_type': 'docker',
        'image_container_format': 'docker',
        'image_disk_format': 'raw',
    }
    instance = make_instance(vm_state='active', system_metadata=described)
    instance.image_ref = make_image().id
    instance.info_cache.network_info.append(make_vif(active=True))
    zun.spawn(None, instance, make_image(), [], None, {}, network_info=instance.get_network_info())
    machine.servers.add(instance)
    zun.get_available_resource('host1')
    # The passes that this wakes are through: they would work beside those of a test.
    until(lambda: all(each.due > time.monotonic() for each in zun._passes._passes))
    until(lambda: not zun._recovery._at_work)
    return instance
