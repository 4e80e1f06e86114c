"""What a sandbox cannot do: the server stays as it was, and the user is told why."""

from nova.tests.functional.api import client

from tests.nova import base


class RefusalTestCase(base.CloudTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.create()
        self.before = self.snapshot(self.server)

    def assert_refused(self, code, call, *args, **kwargs):
        refusal = self.assertRaises(client.OpenStackApiException, call, *args, **kwargs)
        self.assertEqual(code, refusal.response.status_code)
        self.assert_unharmed(self.server, self.before)
        return refusal.response.text

    def assert_told(self, action, event):
        told = self.failure(self.server, action, event)
        self.assertIn('sandbox', told.lower())
        self.assert_unharmed(self.server, self.before)

    def test_set_password(self):
        self.assert_refused(501, self.act, self.server, changePassword={'adminPass': 'x'})

    def test_remote_console(self):
        for protocol, kind in (('vnc', 'novnc'), ('spice', 'spice-html5'), ('serial', 'serial')):
            if protocol != 'vnc':
                self.flags(enabled=True, group={'spice': 'spice'}.get(protocol, 'serial_console'))
            self.assert_refused(
                501,
                self.api.api_post,
                f'/servers/{self.server["id"]}/remote-consoles',
                {'remote_console': {'protocol': protocol, 'type': kind}},
            )

    def test_crash_dump(self):
        self.act(self.server, trigger_crash_dump=None)
        self.assert_told('trigger_crash_dump', 'compute_trigger_crash_dump')

    def test_moving_with_nowhere_to_go(self):
        self.act(self.server, migrate=None)
        self.failure(self.server, 'migrate', 'conductor_migrate_server')
        self.assert_unharmed(self.server, self.before)
        self.act(self.server, **{'os-migrateLive': {'host': None, 'block_migration': 'auto'}})
        self.eventually(lambda: self.assertEqual(['error', 'error'], self.migrations(self.server)))
        self.assert_unharmed(self.server, self.before)


class MovingTestCase(base.CloudTestCase):
    """Two hosts of sandboxes, so that the scheduler finds where to go."""

    SANDBOX_HOSTS = ('box', 'other')

    def setUp(self):
        super().setUp()
        self.server = self.create(host='box')
        self.before = self.snapshot(self.server)

    def assert_stayed(self):
        self.assert_unharmed(self.server, self.before)
        shown = self.api.get_server(self.server['id'])
        self.assertEqual('box', shown['OS-EXT-SRV-ATTR:host'])
        self.assertEqual(128, shown['flavor']['ram'])
        self.eventually(lambda: self.assertEqual(['error'], self.migrations(self.server)))
        self.assert_nothing_left('other')

        def look():
            provider = self._get_provider_uuid_by_host('box')
            self.assertEqual(
                {provider}, set(self._get_allocations_by_server_uuid(self.server['id']))
            )
            other = self._get_provider_usages(self._get_provider_uuid_by_host('other'))
            self.assertEqual({0}, set(other.values()))

        self.eventually(look)

    def test_live_migration(self):
        # Only if forced to a host does nova say why; otherwise it looks for another one.
        self.api.microversion = '2.67'
        self.act(
            self.server,
            **{'os-migrateLive': {'host': 'other', 'block_migration': 'auto', 'force': True}},
        )
        self.api.microversion = 'latest'
        told = self.failure(self.server, 'live-migration', 'conductor_live_migrate_instance')
        self.assertIn('sandbox', told.lower())
        self.assert_stayed()

    def test_live_migration_to_wherever(self):
        self.act(self.server, **{'os-migrateLive': {'host': None, 'block_migration': 'auto'}})
        self.failure(self.server, 'live-migration', 'conductor_live_migrate_instance')
        self.assert_stayed()
