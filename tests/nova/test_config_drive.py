"""What a server's containers see of its config drive."""

import base64
import json
import shutil

import fixtures
from neutronclient.common import exceptions as neutron_errors

from tests.nova import base
from zun_virt import sandbox

SCRIPT = '#!/bin/sh\necho grüß\n'


def encoded(text):
    return base64.b64encode(text.encode()).decode()


class ConfigDriveTestCase(base.CloudTestCase):
    def drive(self, server):
        return self.box.store.config_drive(server['id'])

    def bound(self, server):
        """Return what is bound where a config drive is, of the pause container."""
        target = f':{sandbox.CONFIG_DRIVE_TARGET}:ro'
        binds = self.pause_container(server)['HostConfig']['Binds']
        return [one.removesuffix(target) for one in binds if one.endswith(target)]

    def read(self, server, name):
        return (self.drive(server) / 'openstack' / 'latest' / name).read_bytes().decode()

    def test_what_nova_knows_is_there(self):
        self.api.microversion = '2.56'  # the last with files
        server = self.create(
            config_drive=True,
            user_data=encoded(SCRIPT),
            metadata={'purpose': 'test'},
            personality=[{'path': '/etc/motd', 'contents': encoded('hello')}],
            adminPass='secret-of-7',
        )
        self.assertEqual([str(self.drive(server))], self.bound(server))
        told = json.loads(self.read(server, 'meta_data.json'))
        self.assertEqual(
            (server['id'], {'purpose': 'test'}, 'secret-of-7'),
            (told['uuid'], told['meta'], told['admin_pass']),
        )
        (file,) = told['files']
        self.assertEqual('/etc/motd', file['path'])
        content = self.drive(server) / 'openstack' / file['content_path'].lstrip('/')
        self.assertEqual('hello', content.read_text())
        self.assertEqual(SCRIPT, self.read(server, 'user_data'))
        network = json.loads(self.read(server, 'network_data.json'))
        (address,) = self.record(server).addresses
        self.assertEqual([address.mac], [link['ethernet_mac_address'] for link in network['links']])
        found = list(self.drive(server).rglob('*'))
        modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in found}
        self.assertEqual({(True, 0o755), (False, 0o444)}, modes)
        self.assertEqual(0o700, self.drive(server).parent.stat().st_mode & 0o777)
        self.assertEqual({'ec2', 'openstack'}, {path.name for path in self.drive(server).iterdir()})
        self.delete(server)
        self.assert_nothing_left()

    def test_it_outlives_its_pause_container(self):
        server = self.create(config_drive=True, user_data=encoded(SCRIPT))
        self.box.docker.remove_container(sandbox.sandbox_name(server['id']), force=True)
        self.act(server, reboot={'type': 'HARD'})
        self.wait_for(server, status='ACTIVE')
        self.eventually(lambda: self.assertEqual([str(self.drive(server))], self.bound(server)))
        self.assertEqual(SCRIPT, self.read(server, 'user_data'))

    def test_one_that_was_cut_off_is_written_when_its_server_starts(self):
        server = self.create(config_drive=True, user_data=encoded(SCRIPT))
        (self.drive(server) / 'openstack').rename(self.drive(server) / '.cut-off')
        self.act(server, reboot={'type': 'HARD'})
        self.wait_for(server, status='ACTIVE')
        self.eventually(lambda: self.assertTrue((self.drive(server) / 'openstack').is_dir()))
        self.assertEqual(SCRIPT, self.read(server, 'user_data'))
        self.assertEqual({'ec2', 'openstack'}, {path.name for path in self.drive(server).iterdir()})
        (self.drive(server) / 'mark').mkdir()
        self.act(server, reboot={'type': 'HARD'})
        self.wait_for(server, status='ACTIVE')
        self.assertTrue((self.drive(server) / 'mark').is_dir())

    def test_one_that_was_cut_off_is_written_when_nova_compute_starts(self):
        """As when it was killed on the way here of a server that runs."""
        server = self.create(config_drive=True, user_data=encoded(SCRIPT))
        (self.drive(server) / 'openstack').rename(self.drive(server) / '.cut-off')
        self.restart()
        self.eventually(lambda: self.assertTrue((self.drive(server) / 'openstack').is_dir()))
        self.assertEqual(SCRIPT, self.read(server, 'user_data'))

    def test_one_of_which_nova_cannot_tell_is_no_server(self):
        neutron = self.useFixture(
            fixtures.MockPatch(
                'nova.network.security_group_api.get_instance_security_groups',
                side_effect=neutron_errors.NeutronClientException('no answer'),
            )
        )
        server = self.create(wanted='ERROR', config_drive=True)
        self.assertTrue(neutron.mock.called)
        self.assertFalse(self.drive(server).exists())
        self.assertNotIn(server['id'], self.box.store.ids())

    def test_a_server_that_never_had_one_starts_without(self):
        """As one that asked for it before this was built."""
        server = self.create(config_drive=True)
        shutil.rmtree(self.drive(server))
        self.act(server, reboot={'type': 'HARD'})
        self.wait_for(server, status='ACTIVE')
        self.assertFalse(self.drive(server).exists())

    def test_a_rebuild_makes_it_anew(self):
        server = self.create(config_drive=True, user_data=encoded(SCRIPT))
        self.act(server, rebuild={'imageRef': self.image, 'user_data': encoded('other')})
        self.wait_for(server, status='ACTIVE')
        self.assertEqual('other', self.read(server, 'user_data'))
        self.assertEqual([str(self.drive(server))], self.bound(server))

    def test_who_asked_for_none_has_none(self):
        server = self.create(user_data=encoded(SCRIPT))
        self.assertFalse(self.drive(server).exists())
        self.assertEqual([], self.bound(server))


class ForcedConfigDriveTestCase(base.CloudTestCase):
    def test_the_operator_may_want_one_for_all(self):
        self.flags(force_config_drive=True)
        server = self.create()
        self.assertEqual('True', server['config_drive'])
        self.assertTrue(self.box.store.config_drive(server['id']).is_dir())


class MovedConfigDriveTestCase(base.CloudTestCase):
    SANDBOX_HOSTS = ('box', 'other')

    def test_it_goes_with_its_server(self):
        server = self.create(host='box', config_drive=True, user_data=encoded(SCRIPT))
        self.act(server, migrate=None)
        self.wait_for(server, **{'OS-EXT-SRV-ATTR:host': 'other', 'status': 'VERIFY_RESIZE'})
        drive = self.outside['other'].store.config_drive(server['id'])
        self.assertEqual(SCRIPT, (drive / 'openstack/latest/user_data').read_text())
        self.act(server, confirmResize=None)
        self.wait_for(server, status='ACTIVE')
        for made in (self.box.store.directory, self.box.store.config_drive):
            self.eventually(lambda made=made: self.assertFalse(made(server['id']).exists()))
