"""Requests for sandboxes to which Nova gave no answer, or one that nobody heard."""

import pytest

from tests.unit.agent.managing import create
from zun_agent import errors, intents
from zun_agent.manager import Manager
from zun_agent.openstack import Unanswered


def test_the_intent_is_there_before_nova_is_asked(agent, monkeypatch):
    seen = []
    ask = agent.sandboxes.create

    def create_server(context, plan):
        seen.extend(agent.store.intents(0))
        return ask(context, plan)

    monkeypatch.setattr(agent.sandboxes, 'create', create_server)
    made = create(agent)
    assert [intent.intent_id for intent in seen] == [made.intent_id]
    assert seen[0].desired == 'running'


def test_no_answer_of_novas_leaves_an_intent_to_be_swept(agent):
    agent.cloud.fail('POST', '/v2.1/servers', 'done')
    with pytest.raises(Unanswered):
        create(agent)
    (intent,) = agent.manager.list(agent.context)
    assert (intent.status, intent.sandbox_id) == ('Error', None)
    assert 'Nova did not answer' in intent.status_reason
    agent.manager.delete(agent.context, intent)
    assert len(agent.cloud.servers) == 1
    intents.sweep(agent.store, agent.sandboxes, 60)
    assert len(agent.cloud.servers) == 1  # it may still be on its way
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert agent.cloud.servers == {}
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert agent.store.page(None) == []


def test_the_sweep_waits_for_nova(agent):
    agent.cloud.fail('POST', '/v2.1/servers', 'done')
    with pytest.raises(Unanswered):
        create(agent)
    agent.cloud.fail('GET', '/v2.1/servers/detail', 503)
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert len(agent.store.page(None)) == 1
    agent.cloud.failures.clear()
    for _ in range(2):
        intents.sweep(agent.store, agent.sandboxes, 0)
    assert agent.store.page(None) == []
    assert agent.cloud.servers == {}


def test_the_sweep_leaves_what_has_its_answer(agent):
    made = create(agent)
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert made.uuid in agent.cloud.servers
    assert agent.store.container(made.uuid).desired == 'running'


def test_an_answer_that_comes_during_the_sweep(agent, monkeypatch):
    agent.cloud.fail('POST', '/v2.1/servers', 'done')
    with pytest.raises(Unanswered):
        create(agent)
    old = agent.store.intents(0)
    (server_id,) = agent.cloud.servers
    agent.store.bind_intent(old[0].intent_id, server_id)
    monkeypatch.setattr(agent.store, 'intents', lambda older_than: old)
    intents.sweep(agent.store, agent.sandboxes, 0)
    assert list(agent.cloud.servers) == [server_id]
    assert agent.store.container(server_id).desired == 'running'


def test_an_answer_that_comes_after_the_sweep(agent, monkeypatch):
    ask = agent.sandboxes.create

    def create_server(context, plan):
        intents.sweep(agent.store, agent.sandboxes, 0)
        return ask(context, plan)

    monkeypatch.setattr(agent.sandboxes, 'create', create_server)
    with pytest.raises(errors.ServiceUnavailable):
        create(agent)
    assert agent.cloud.servers == {}
    assert agent.store.page(None) == []


def died_in(agent, monkeypatch, reached):
    """Have the agent's process end in the middle of a request for a sandbox.

    :param reached: whether Nova got the request
    """

    class Killed(BaseException):
        pass

    ask = agent.sandboxes.create

    def create_server(context, plan):
        if reached:
            ask(context, plan)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(agent.sandboxes, 'create', create_server)
        with pytest.raises(Killed):
            create(agent)


def earlier(agent, host='one', longest=60.0):
    return intents.Earlier(host, agent.store, agent.sandboxes, longest)


def test_a_request_that_died_with_the_agent_is_settled_by_the_next(agent, monkeypatch):
    died_in(agent, monkeypatch, reached=True)
    next_one = earlier(agent)
    agent.cloud.fail('GET', '/v2.1/servers/detail', 503)
    next_one.settle()
    agent.cloud.failures.clear()
    next_one.settle()
    assert agent.cloud.servers == {}
    next_one.settle()
    assert agent.store.page(None) == []


def test_what_nova_may_still_be_at_is_waited_for(agent, monkeypatch):
    died_in(agent, monkeypatch, reached=False)
    patient = earlier(agent)
    for _ in range(3):
        patient.settle()
    (intent,) = agent.store.page(None)
    assert intent.status == 'Deleting'
    server = agent.cloud.server(
        name=intent.name, tenant_id=intent.project_id, metadata={'zun_intent': intent.intent_id}
    )
    patient.settle()
    assert server['id'] not in agent.cloud.servers
    patient.settle()
    assert agent.store.page(None) == []

    died_in(agent, monkeypatch, reached=False)
    earlier(agent, longest=0).settle()
    assert agent.store.page(None) == []


def test_others_requests_are_left_to_them(agent, monkeypatch):
    """Those of the agent itself, of other hosts' agents, and of front ends."""
    next_one = earlier(agent, longest=0)
    died_in(agent, monkeypatch, reached=False)
    next_one.settle()
    earlier(agent, host='two', longest=0).settle()
    agent.manager = Manager(agent.conf, agent.store, agent.runtime, agent.sandboxes, agent.images)
    died_in(agent, monkeypatch, reached=False)
    assert [intent.status for intent in agent.store.page(None)] == ['Creating'] * 2
    earlier(agent, longest=0).settle()
    assert [intent.taken_by for intent in agent.store.page(None)] == [None]


def test_a_container_that_is_deleted_before_nova_answers(agent, monkeypatch):
    ask = agent.sandboxes.create

    def create_server(context, plan):
        (intent,) = agent.store.page(None)
        agent.manager.delete(agent.context, intent, force=True)
        return ask(context, plan)

    monkeypatch.setattr(agent.sandboxes, 'create', create_server)
    made = create(agent)
    assert (made.desired, made.status) == ('deleted', 'Deleting')
