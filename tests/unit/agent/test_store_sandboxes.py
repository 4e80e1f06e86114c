"""What the store says of sandboxes: whose they become, who claims them, and who goes last."""

import concurrent.futures
import threading
import uuid

import pytest

from tests.unit.agent.stored import action, container, owner
from zun_agent import errors, records
from zun_agent.models import Desired

# Intents


def test_an_intent_becomes_the_container_of_its_server(store):
    intent = container()
    intent.intent_id = intent.uuid
    store.add_container(intent)
    server_id = str(uuid.uuid4())
    bound = store.bind_intent(intent.intent_id, server_id, action())
    assert (bound.uuid, bound.sandbox_id, bound.owns_sandbox) == (server_id, server_id, True)
    assert store.container(intent.intent_id) is None
    assert [a.action for a in store.actions(server_id)] == ['create']
    assert store.intents(0) == []


def test_an_intent_keeps_what_was_asked_of_it_meanwhile(store):
    intent = container()
    intent.intent_id = intent.uuid
    store.add_container(intent)
    store.request(intent.uuid, action=action('delete'), desired=Desired.DELETED)
    bound = store.bind_intent(intent.intent_id, str(uuid.uuid4()), action())
    assert (bound.desired, bound.generation) == ('deleted', 2)
    assert {a.action for a in store.actions(bound.uuid)} == {'delete', 'create'}


def test_only_intents_without_an_answer_are_swept(store):
    waiting, bound = container(), owner(store)
    waiting.intent_id = waiting.uuid
    store.add_container(waiting)
    store.add_container(container(sandbox_id=bound.sandbox_id))
    assert [c.uuid for c in store.intents(0)] == [waiting.uuid]
    assert store.intents(60) == []
    assert store.give_up_intent(waiting.intent_id)
    assert store.container(waiting.uuid).desired == 'deleted'
    assert not store.give_up_intent(bound.intent_id)
    assert not store.remove_intent(bound.intent_id)
    store.request(waiting.uuid, action=action('delete'), desired=Desired.DELETED)
    assert store.remove_intent(waiting.intent_id)
    (kept,) = store.actions(waiting.uuid)
    assert kept.finish_time is not None
    assert store.container(bound.uuid).desired == 'created'
    with pytest.raises(errors.ContainerNotFound):
        store.bind_intent(waiting.intent_id, str(uuid.uuid4()))


# Sandboxes


def test_one_of_many_agents_claims_a_sandbox(store):
    made = owner(store)
    barrier = threading.Barrier(6)

    def claim(host):
        barrier.wait(10)
        return store.claim_sandbox(made.sandbox_id, 'p1', host, f'inc-{host}', None)

    hosts = [f'h{number}' for number in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        won = [host for host, mine in zip(hosts, pool.map(claim, hosts), strict=True) if mine]
    assert len(won) == 1
    assert store.container(made.uuid).host == won[0]
    assert store.claim(made.sandbox_id).host == won[0]
    assert [claim.sandbox_id for claim in store.claims_of(won[0])] == [made.sandbox_id]


def test_a_claim_changes_hands_by_compare_and_swap(store):
    made = owner(store)
    claim = store.claim_sandbox
    assert claim(made.sandbox_id, 'p1', 'h1', 'inc-1', None)
    assert claim(made.sandbox_id, 'p1', 'h1', 'inc-1', None)  # a repetition
    assert not claim(made.sandbox_id, 'p1', 'h2', 'inc-2', None)
    assert not claim(made.sandbox_id, 'p1', 'h2', 'inc-2', 'inc-0')
    assert store.container(made.uuid).host == 'h1'
    assert claim(made.sandbox_id, 'p1', 'h2', 'inc-2', 'inc-1')
    assert not claim(made.sandbox_id, 'p1', 'h1', 'inc-1', 'inc-1')
    assert store.container(made.uuid).host == 'h2'
    store.release_sandbox(made.sandbox_id)
    store.release_sandbox(made.sandbox_id)
    assert store.claim(made.sandbox_id) is None


def test_a_claim_is_of_containers_of_the_sandboxs_project_only(store):
    made = owner(store)
    stranger = container(project_id='p2', sandbox_id=made.sandbox_id)
    store.add_container(stranger)
    store.claim_sandbox(made.sandbox_id, 'p1', 'h1', 'inc-1', None)
    assert store.container(stranger.uuid).host is None


def test_who_joins_a_claimed_sandbox_is_on_its_host(store):
    made = owner(store)
    store.claim_sandbox(made.sandbox_id, 'p1', 'h1', 'inc-1', None)
    joined = store.add_container(container(sandbox_id=made.sandbox_id), action())
    assert joined.host == 'h1'


def test_a_sandbox_does_not_go_under_those_who_live_there(store):
    made = owner(store, name='first')
    joined = container(name='second', sandbox_id=made.sandbox_id)
    store.add_container(joined)
    with pytest.raises(errors.SandboxConflict, match='second'):
        store.request(made.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    store.request(joined.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    store.request(made.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    with pytest.raises(errors.SandboxConflict, match='first'):
        store.add_container(container(sandbox_id=made.sandbox_id))


def test_who_joins_while_the_sandbox_is_given_up_is_refused(store, monkeypatch):
    made = owner(store)
    check = records.check_alone
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        joining = []

        def check_and_wait(session, current):
            check(session, current)
            join = pool.submit(store.add_container, container(sandbox_id=made.sandbox_id))
            joining.append(join)
            concurrent.futures.wait([join], timeout=0.3)  # it has to wait for us instead

        monkeypatch.setattr(records, 'check_alone', check_and_wait)
        store.request(made.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
        assert type(joining[0].exception(20)) is errors.SandboxConflict
    assert len(store.containers_in(made.sandbox_id)) == 1


def test_the_last_one_out_takes_the_sandbox(store):
    made = owner(store)
    joined = [container(sandbox_id=made.sandbox_id) for _ in range(2)]
    for each in joined:
        store.add_container(each)
    assert store.pass_on_sandbox(made.uuid)
    assert [c.owns_sandbox for c in store.containers_in(made.sandbox_id)] == [False, True, False]
    store.remove_container(made.uuid)
    # It was not made for this one, which may go while the other stays.
    store.request(joined[0].uuid, action=action(), alone=True, desired=Desired.DELETED)
    assert store.pass_on_sandbox(joined[0].uuid)
    store.remove_container(joined[0].uuid)
    assert not store.pass_on_sandbox(joined[1].uuid)


def test_nobody_joins_a_sandbox_that_goes_with_its_heir(store):
    made = owner(store)
    heir = store.add_container(container(name='heir', sandbox_id=made.sandbox_id))
    assert store.pass_on_sandbox(made.uuid)
    store.remove_container(made.uuid)
    store.request(heir.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    assert not store.pass_on_sandbox(heir.uuid)  # Nova is asked to delete it now
    with pytest.raises(errors.SandboxConflict, match='heir'):
        store.add_container(container(sandbox_id=made.sandbox_id))


def test_a_sandbox_in_which_another_stays_takes_who_comes(store):
    made = owner(store)
    stays = store.add_container(container(sandbox_id=made.sandbox_id))
    store.request(made.uuid, action=action('delete'), desired=Desired.DELETED)  # by itself
    joined = store.add_container(container(sandbox_id=made.sandbox_id))
    assert store.pass_on_sandbox(made.uuid)
    store.request(stays.uuid, action=action('delete'), alone=True, desired=Desired.DELETED)
    assert store.pass_on_sandbox(stays.uuid)
    assert store.container(joined.uuid).owns_sandbox


def test_an_heir_is_not_deleted_before_it_knows(store, monkeypatch):
    made = owner(store)
    heir = store.add_container(container(sandbox_id=made.sandbox_id))
    look = records.others_in_sandbox
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = []

        def look_and_wait(session, current, **options):
            found = look(session, current, **options)
            asked.append(
                pool.submit(
                    store.request, heir.uuid, action=action('delete'), desired=Desired.DELETED
                )
            )
            concurrent.futures.wait(asked, timeout=0.3)  # it has to wait for us instead
            return found

        monkeypatch.setattr(records, 'others_in_sandbox', look_and_wait)
        assert store.pass_on_sandbox(made.uuid)
        assert asked[0].result(20).owns_sandbox
