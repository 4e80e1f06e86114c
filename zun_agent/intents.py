"""The sweep of what became of requests to Nova whose answer never came."""

from __future__ import annotations

import datetime

from oslo_log import log as logging

from zun_agent import errors
from zun_agent.models import Container, now
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
            _settle(store, sandboxes, intent)
        except errors.AgentError as error:
            LOG.warning('intent %s: not swept yet, tried again: %s', intent.intent_id, error)


class Earlier:
    """Settles the intents of this host's agent before this one: nobody has them in hand.

    Their users got no answer when it ended, and need not wait for the sweep.
    """

    def __init__(self, host: str, store: Store, sandboxes: Sandboxes, longest: float) -> None:
        """Leave alone what is taken in from now on.

        :param longest: seconds for which Nova may work on a request whose asker has died
        """
        self._host = host
        self._store = store
        self._sandboxes = sandboxes
        self._longest = datetime.timedelta(seconds=longest)
        self._began = now()
        self._had_server: set[str] = set()
        self._done = False

    def settle(self) -> None:
        """Do what can be done now; to be called again and again."""
        if self._done:
            return
        left = self._store.intents_taken(self._host, self._began)
        for intent in left:
            try:
                self._settle(intent)
            except errors.AgentError as error:
                LOG.warning('intent %s: not settled, tried again: %s', intent.intent_id, error)
        self._done = not left

    def _settle(self, intent: Container) -> None:
        # Nova makes one server at most. Until it has, it may still be about to.
        over = intent.uuid in self._had_server or now() - intent.created_at > self._longest
        if _settle(self._store, self._sandboxes, intent, end=over):
            self._had_server.add(intent.uuid)


def _settle(store: Store, sandboxes: Sandboxes, intent: Container, *, end: bool = True) -> bool:
    """Delete what Nova made for an intent that is given up.

    :param end: whether the record ends when Nova has nothing for it
    :returns: whether Nova has
    """
    assert intent.intent_id is not None  # noqa: S101
    # From here on a very late answer of Nova's binds a container that is to be deleted.
    if not store.give_up_intent(intent.intent_id):
        return False
    found = sandboxes.servers_of_intent(intent)
    for server in found:
        LOG.info('intent %s: deleting server %s, made for it', intent.intent_id, server.id)
        sandboxes.delete_server(server.id, intent.project_id)
    # Servers are looked for again the next time, until Nova has none left.
    if end and not found and store.remove_intent(intent.intent_id):
        LOG.info('intent %s: ended, Nova has no server for it', intent.intent_id)
    return bool(found)
