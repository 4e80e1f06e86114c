"""Containers as the API has them stored, and what is asked of them."""

import uuid

from zun_agent.models import Action, Container


def container(**values):
    given = {'uuid': str(uuid.uuid4()), 'project_id': 'p1', 'user_id': 'u1', 'name': 'web'}
    return Container(**{**given, 'image': 'nginx', **values})


def intent(**values):
    made = {'uuid': str(uuid.uuid4()), 'name': 'web', 'project_id': 'p1', 'hints': {}, 'nets': []}
    made = Container(**{**made, **values})
    made.intent_id = made.uuid
    return made


def action(name='create', request_id='req-1'):
    return Action(action=name, request_id=request_id, user_id='u1', project_id='p1')


def owner(store, **values):
    """Store a container in a sandbox that was made for it."""
    intent = container(**values)
    intent.intent_id = intent.uuid
    store.add_container(intent)
    return store.bind_intent(intent.intent_id, str(uuid.uuid4()), action())
