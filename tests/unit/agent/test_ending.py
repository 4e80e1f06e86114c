"""How containers end, with Docker and Nova in memory."""

from tests.unit.agent.fakes import HOST
from zun_agent.models import Status
from zun_agent.store import Store


class TestDelete:
    def test_delete(self, world, running):
        world.request(running, 'delete')
        assert world.settle(running) is None
        assert world.docker(running) is None
        assert world.actions(running)['delete'] == (True, None)

    def test_with_a_stop(self, world, running):
        world.request(running, 'delete', stop_timeout=10)
        assert world.settle(running) is not None
        assert world.runtime.calls[-1] == 'kill SIGTERM'
        world.runtime.end(world.docker(running).id, 0)
        assert world.settle(running) is None

    def test_of_a_frozen_one_thaws_it_first(self, world, running):
        world.runtime.pause(world.docker(running).id)
        world.request(running, 'delete')
        world.settle(running)
        assert world.runtime.calls[-2:] == ['unpause', 'remove']

    def test_the_sandbox_goes_with_its_owner(self, world, box):
        uuid = world.container(box, uuid=box.instance_id, owns_sandbox=True)
        world.settle(uuid)
        world.request(uuid, 'delete')
        assert world.settle(uuid).status == Status.DELETING
        assert world.sandboxes.deleted == [box.instance_id]
        del world.sandboxes.servers[box.instance_id]
        assert world.settle(uuid) is None

    def test_auto_remove(self, world, box):
        uuid = world.container(box, auto_remove=True)
        world.settle(uuid)
        world.runtime.end(world.docker(uuid).id, 0, ago=5)
        assert world.settle(uuid) is None
        assert world.actions(uuid)['delete'] == (True, None)

    def test_auto_remove_keeps_the_sandbox_for_others(self, world, box, running):
        owner = world.container(box, uuid=box.instance_id, owns_sandbox=True, auto_remove=True)
        world.settle(owner)
        world.runtime.end(world.docker(owner).id, 0, ago=5)
        assert world.settle(owner) is None
        assert world.sandboxes.deleted == []
        world.request(running, 'delete')
        world.settle(running)
        assert world.sandboxes.deleted == [box.instance_id]

    def test_of_what_nova_never_made(self, world, box):
        world.local.remove(box.instance_id)
        world.look(box.instance_id)
        uuid = world.container(box, owns_sandbox=True, uuid=box.instance_id)
        world.request(uuid, 'delete')
        del world.sandboxes.servers[box.instance_id]
        assert world.settle(uuid) is None


class TestStrays:
    def test_one_whose_record_ended_is_removed(self, world, running):
        world.store.remove_container(running)
        world.agent.full_pass()
        assert world.docker(running) is None

    def test_one_whose_sandbox_is_elsewhere_is_stopped(self, world, box, running):
        incarnation = world.store.claim(box.instance_id).incarnation
        world.store.claim_sandbox(
            box.instance_id, box.project_id, 'elsewhere', 'another', incarnation
        )
        world.agent.full_pass()
        assert not world.docker(running).alive
        assert world.store.container(running).status == Status.RUNNING  # not ours to write

    def test_one_that_the_database_never_knew_is_let_be(self, world, box, running, tmp_path):
        world.store.close()
        world.store = Store(f'sqlite:///{tmp_path}/another.sqlite')
        world.store.migrate()
        world.restart_agent()
        world.look(box.instance_id)
        assert world.store.claim(box.instance_id).host == HOST
        world.agent.full_pass()
        assert world.docker(running).alive

    def test_one_in_an_unknown_sandbox_is_let_be(self, world, box, running):
        world.store.remove_container(running)
        world.store.release_sandbox(box.instance_id)
        world.agent.full_pass()
        assert world.docker(running).alive
