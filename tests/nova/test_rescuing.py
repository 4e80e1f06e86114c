"""Sandboxes that run without their containers, by nova's own services."""

from tests.nova import base
from zun_virt import sandbox

State = sandbox.State


class RescueTestCase(base.CloudTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.create()
        self.mine = self.box.add_user_container(self.server['id'])
        self.act(self.server, rescue={})
        self.wait_for(self.server, status='RESCUE')

    def assert_held(self):
        record = self.record(self.server)
        self.assertEqual(
            (State.READY, True, (self.mine,)), (record.state, record.held, record.running)
        )
        self.assertEqual(1, len(self.box.running(self.server['id'])))
        self.assertEqual(1, len(self.box.plugged()))

    def assert_let_go(self):
        self.wait_for(self.server, status='ACTIVE')
        record = self.record(self.server)
        self.assertEqual(
            (State.READY, False, (self.mine,)), (record.state, record.held, record.running)
        )

    def unrescue(self):
        self.act(self.server, unrescue=None)
        self.assert_let_go()

    def test_its_containers_wait_for_the_end(self):
        self.assert_held()
        self.unrescue()

    def test_it_stays_so_over_a_reboot_of_the_host(self):
        self.computes['box'].stop()
        self.box.reboot()
        self.flags(resume_guests_state_on_host_boot=True)
        self.restart()
        self.wait_for(self.server, status='RESCUE')
        self.eventually(self.assert_held)
        self.unrescue()

    def test_it_ends_also_where_the_sandbox_died_meanwhile(self):
        self.computes['box'].stop()
        self.box.reboot()
        self.restart()
        self.unrescue()

    def test_it_stays_so_where_the_sandbox_is_killed(self):
        self.box.kill(self.server['id'])
        self.eventually(self.assert_held)
        self.wait_for(self.server, status='RESCUE')

    def test_it_can_be_deleted(self):
        self.delete(self.server)
        self.assert_nothing_left()
