"""The sweep of what became of requests to Nova whose answer never came."""

from __future__ import annotations

from oslo_log import log as logging

from zun_agent import errors
from zun_agent.models import Container
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store

LOG = logging.getLogger(__name__)


def sweep(store: Store, sandboxes: Sandboxes, older_than: float) -> None:
    """Delete the servers that were asked for, and whose containers nobody was promised.

    An intent that is this old has no request waiting for Nova any more: its user got an
    error, or no answer at all because the agent died. Any agent may sweep, several too.

    :param older_than: seconds, more than a request to Nova can take
    """
    for intent in store.intents(older_than):
        try:
            _sweep_one(store, sandboxes, intent)
        except errors.AgentError as error:
            LOG.warning('intent %s: not swept yet, tried again: %s', intent.intent_id, error)


def _sweep_one(store: Store, sandboxes: Sandboxes, intent: Container) -> None:
    assert intent.intent_id is not None  # noqa: S101
    # From here on a very late answer of Nova's binds a container that is to be deleted.
    if not store.give_up_intent(intent.intent_id):
        return
    found = sandboxes.servers_of_intent(intent)
    for server in found:
        LOG.info('intent %s: deleting server %s, made for it', intent.intent_id, server.id)
        sandboxes.delete_server(server.id, intent.project_id)
    # Servers are looked for again in the next sweep, until Nova has none left.
    if not found and store.remove_intent(intent.intent_id):
        LOG.info('intent %s: ended, Nova has no server for it', intent.intent_id)
