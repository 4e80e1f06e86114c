"""A cloud in one process: nova's own services and fixtures around our driver.

The API, conductor, scheduler, placement and compute services are the real ones.  What is
outside of the driver (Docker, the kernel, Open vSwitch) is `tests.nova.outside`.
"""

import functools
import importlib.metadata
import io
import threading
import time
import uuid

from nova import conf, context
from nova.compute import power_state
from nova.objects import fields
from nova.tests.functional import integrated_helpers
from nova.tests.functional.api import client
from nova.virt import fake

from tests.nova import accept_sqlalchemy, outside
from zun_virt import driver, sandbox

CONF = conf.CONF

SANDBOX_TRAIT = 'CUSTOM_ZUN_SANDBOX'

PATIENCE = 60.0
"""Seconds after which a test gives up waiting.

All it waits for takes well under one, unless others have the processors.
"""


class SandboxDriver(driver.ZunDriver):
    """Ours, with an identity of its own for each host that this process plays."""

    def __init__(self, virtapi):
        super().__init__(virtapi)
        self.ended = threading.Event()

    def __getattribute__(self, name):
        # Whoever calls the driver works for its host, whatever the thread did before.
        known = super().__getattribute__('__dict__').get('_host')
        if known is not None:
            outside.act_for(known._client)
        return super().__getattribute__(name)

    def cleanup_host(self, host):
        super().cleanup_host(host)
        self.ended.set()

    def get_nodenames_by_uuid(self, refresh=False):
        return {_node_uuid(name): name for name in self.get_available_nodes(refresh)}

    def get_available_resource(self, nodename):
        return dict(super().get_available_resource(nodename), uuid=_node_uuid(nodename))


class MachineDriver(fake.FakeDriver):
    """Virtual machines: nova's fake driver, saying that it is KVM."""

    def get_nodenames_by_uuid(self, refresh=False):
        return {_node_uuid(name): name for name in self.get_available_nodes(refresh)}

    def get_available_resource(self, nodename):
        machine = fields.Architecture.X86_64
        return dict(
            super().get_available_resource(nodename),
            uuid=_node_uuid(nodename),
            hypervisor_type='QEMU',
            supported_instances=[
                (machine, fields.HVType.KVM, fields.VMMode.HVM),
                (machine, fields.HVType.QEMU, fields.VMMode.HVM),
            ],
        )


def _node_uuid(name):
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


class CloudTestCase(integrated_helpers._IntegratedTestBase):
    """A cloud with the hosts that the class names."""

    ADMIN_API = True
    CAST_AS_CALL = False
    microversion = 'latest'

    SANDBOX_HOSTS = ('box',)
    MACHINE_HOSTS = ()

    #: The image of every sandbox in Docker, None for that of each server in Glance.
    SANDBOX_IMAGE = outside.IMAGE

    #: Options of nova-compute: group, name, value.
    OPTIONS = ()

    def setUp(self):
        self.outside = {}
        self.flags(api_paste_config=_paste_file(), group='wsgi')
        # nova's fixture of databases can deadlock when a service reports that it is alive.
        self.flags(report_interval=0, service_down_time=3600)
        super().setUp()
        self.image = self.add_image('sandbox', hypervisor_type='docker', trait=SANDBOX_TRAIT)
        self.flavor = self.add_flavor('sandbox', trait=SANDBOX_TRAIT)

    # The base class's hooks

    def _setup_scheduler_service(self):
        accept_sqlalchemy()
        return super()._setup_scheduler_service()

    def _setup_compute_service(self):
        self.stub_out('nova.virt.driver.load_compute_driver', self._load_driver)
        for group, name, value in self.OPTIONS:
            self.flags(**{name: value}, group=group)
        for host in self.SANDBOX_HOSTS:
            self.outside[host] = self.useFixture(outside.Outside(host))
        for host in (*self.SANDBOX_HOSTS, *self.MACHINE_HOSTS):
            if host in self.outside:
                self.outside[host].configure(self, self.SANDBOX_IMAGE)
            self._start_compute(host)

    def _load_driver(self, virtapi, compute_driver=None):
        if CONF.host in self.MACHINE_HOSTS:
            return MachineDriver(virtapi)
        ours = SandboxDriver(virtapi)
        # nova ends the driver in a thread for which it does not wait here.
        self.addCleanup(ours.ended.wait, 5)
        return ours

    # What tests need

    @property
    def box(self):
        """What is outside of the driver on the first of our hosts."""
        return self.outside[self.SANDBOX_HOSTS[0]]

    def restart(self, host='box'):
        """Stop nova-compute and start it anew, on the host as it is now."""
        self.outside[host].configure(self, self.SANDBOX_IMAGE)
        self.computes[host] = self.restart_compute_service(
            self.computes[host], keep_hypervisor_state=False
        )

    def add_image(self, name, hypervisor_type=None, trait=None, data=None, **fields_):
        properties = {}
        if hypervisor_type:
            properties['img_hv_type'] = hypervisor_type
        if trait:
            properties[f'trait:{trait}'] = 'required'
        image = {
            'id': str(uuid.uuid4()),
            'name': name,
            'container_format': 'docker' if hypervisor_type == 'docker' else 'bare',
            'disk_format': 'raw',
            'size': len(data or b'x'),
            'min_disk': 0,
            'min_ram': 0,
            'properties': properties,
            **fields_,
        }
        return self.glance.create(None, image, io.BytesIO(data) if data else None)['id']

    def add_flavor(self, name, trait=None, **sizes):
        specs = {f'trait:{trait}': 'required'} if trait else None
        sizes = {'memory_mb': 128, 'vcpu': 1, 'disk': 1, 'ephemeral': 0, **sizes}
        return self._create_flavor(name=f'{name}-{uuid.uuid4().hex[:6]}', extra_spec=specs, **sizes)

    def request(self, **changes):
        """Ask for a server."""
        body = {
            'name': 'mybox',
            'imageRef': self.image,
            'flavorRef': self.flavor,
            'networks': 'auto',
            **changes,
        }
        return self.api.post_server({'server': body})

    def create(self, wanted='ACTIVE', **changes):
        """Ask for a server and wait until it has come to the wanted status."""
        return self.wait_for(self.request(**changes), status=wanted)

    def port_is_down(self, timeout=30):
        """Let Neutron make ports that are not up before it says so.

        :param timeout: seconds that nova-compute waits for that
        """
        self.neutron.default_port = dict(self.neutron.default_port, status='DOWN')
        self.flags(vif_plugging_timeout=timeout)

    def port_is_up(self):
        """Let Neutron make ports that are up at once, as it does here without `port_is_down`."""
        self.neutron.default_port = dict(self.neutron.default_port, status='ACTIVE')

    def tell_plugged(self, server, status='completed'):
        """Be Neutron, whose agent has found the server's port, or not."""
        event = {
            'name': 'network-vif-plugged',
            'server_uuid': server['id'],
            'tag': self.neutron.default_port['id'],
            'status': status,
        }
        self.api.create_server_external_events([event])

    def sync_power_states(self, host='box'):
        """Let nova compare what it knows with what the host shows, and wait for the end."""
        manager = self.computes[host].manager
        admin = context.get_admin_context()
        with context.target_cell(admin, self.host_mappings[host].cell_mapping) as cell:
            manager._sync_power_states(cell)
        self.eventually(lambda: self.assertFalse(manager._syncs_in_progress))

    def wait_for(self, server, **wanted):
        """Wait until the server's attributes are as wanted and nothing goes on with it."""
        wanted.setdefault('OS-EXT-STS:task_state', None)

        def look():
            shown = self.api.get_server(server['id'])
            for name, value in wanted.items():
                self.assertEqual(value, shown[name], f'{name}: {shown}')
            if wanted.get('status') == 'ERROR':
                self.assertIn('fault', shown)
            return shown

        return self.eventually(look)

    def eventually(self, look, patience=PATIENCE):
        """Return what `look` returns as soon as no assertion of it fails."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return look()
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def act(self, server, **action):
        """Ask for an action on the server."""
        self.api.post_server_action(server['id'], action)

    def delete(self, server):
        """Delete the server and wait until nova does not know it any more."""
        self.api.delete_server(server['id'])

        def look():
            self.assertRaises(
                client.OpenStackApiNotFoundException, self.api.get_server, server['id']
            )

        self.eventually(look)

    def record(self, server, host=None):
        """Return the server's sandbox.json."""
        return self._outside(host).store.read(server['id'])

    def wait_for_state(self, server, state):
        """Wait for a state in sandbox.json, and return the record."""

        def look():
            record = self.record(server)
            self.assertIsNotNone(record)
            self.assertEqual(sandbox.State(state), record.state)
            return record

        return self.eventually(look)

    def pause_container(self, server, host=None):
        """Return what Docker has as the server's pause container, or None."""
        return self._outside(host).container(sandbox.sandbox_name(server['id']))

    def assert_nothing_left(self, host=None):
        """Nothing of any sandbox is on the host."""
        self.eventually(lambda: self.assertEqual({}, self._outside(host).leftovers()))

    def assert_unharmed(self, server, before, host=None):
        """The server is as it was, and so is its sandbox.

        :param before: what `snapshot` returned
        """
        self.wait_for(server, status='ACTIVE', **{'OS-EXT-STS:power_state': power_state.RUNNING})
        self.assertEqual(before, self.snapshot(server, host))

    def snapshot(self, server, host=None):
        """Return what must be the same after something that changes nothing."""
        pause = self.pause_container(server, host)
        return self.record(server, host), pause['State']['StartedAt'], pause['State']['Status']

    def failure(self, server, action, event):
        """Wait until the event failed, and return what its user is told."""

        def look():
            for entry in self.api.get_instance_actions(server['id']):
                if entry['action'] != action:
                    continue
                details = self.api.get_instance_action_details(server['id'], entry['request_id'])
                for found in details['events']:
                    if found['event'] == event and (found['result'] or '').lower() == 'error':
                        return found['details'] or ''
            return self.fail(f'{action}: {event} did not fail')

        return self.eventually(look)

    def faults(self, server):
        """Return all that went wrong with the server, newest first."""
        from nova import objects

        admin = context.get_admin_context()
        found = objects.InstanceFaultList.get_by_instance_uuids(admin, [server['id']])
        return [fault.message for fault in found]

    def migrations(self, server):
        found = self.api.api_get(f'/os-migrations?instance_uuid={server["id"]}')
        return [entry['status'] for entry in found.body['migrations']]

    def _outside(self, host):
        return self.outside[host] if host else self.box


@functools.cache
def _paste_file():
    """Return the file that nova's fixture would look for beside the package."""
    for file in importlib.metadata.files('nova') or ():
        if str(file).endswith('etc/nova/api-paste.ini'):
            return str(file.locate())
    raise LookupError('the installed nova has no etc/nova/api-paste.ini')
