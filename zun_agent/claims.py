"""Whose the containers of a sandbox are: the host's on which Nova has the sandbox."""

from __future__ import annotations

import time
import typing
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import networks
from zun_agent.models import Container
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_virt import sandbox as contract
from zun_virt.sandbox import State

LOG = logging.getLogger(__name__)

STARTS = 0.3
"""Seconds that containers have to start in a new sandbox before Neutron is asked about it."""

RETRY = 2.0
"""Seconds until Nova is asked again about a sandbox that it has elsewhere."""

RETRY_STOPPED = 10.0
"""The same for one that is stopped: it may stay so until a migration is confirmed."""


class _Held(typing.NamedTuple):
    """What was claimed, and the run of the sandbox in which that was last made sure of."""

    incarnation: str
    pause: contract.PauseContainer | None


class Claims:
    """The sandboxes that this host has claimed, and what follows from their records."""

    def __init__(
        self,
        host: str,
        store: Store,
        sandboxes: Sandboxes,
        local: contract.SandboxStore,
        wake: Callable[[Container, float], None],
    ) -> None:
        """Call `wake` with each container for which something may have changed.

        Its second argument is when the container was read, as `time.monotonic` counts.
        """
        self._host = host
        self._store = store
        self._sandboxes = sandboxes
        self._local = local
        self._wake = wake
        self._held: dict[str, _Held] = {}
        self._addresses: dict[str, tuple[object, dict[str, typing.Any]]] = {}
        self._unusable: dict[str, str] = {}

    def holds(self, record: contract.Sandbox) -> bool:
        """Tell whether this host has claimed this incarnation of the sandbox.

        A new start puts that in question: it may have been on another host meanwhile, and
        come back.
        """
        held = self._held.get(record.instance_id)
        if held is None or held.incarnation != record.incarnation:
            return False
        return record.pause is None or held.pause in (None, record.pause)

    def addresses(self, sandbox_id: str | None) -> dict[str, typing.Any] | None:
        """Return a sandbox's addresses as the API shows them; None where not known yet."""
        known = self._addresses.get(sandbox_id or '')
        return known[1] if known else None

    def look(self, sandbox_id: str) -> float | None:
        """Look at a sandbox's record, claim it if need be, and wake its containers.

        :returns: the seconds after which to look again; None for when there is news
        :raises errors.ServiceUnavailable: Nova or the store does not answer
        """
        try:
            record = self._local.read(sandbox_id)
        except contract.SandboxError as error:
            self._report_unusable(sandbox_id, str(error))
            self._wake_all(sandbox_id)
            return None
        self._unusable.pop(sandbox_id, None)
        if record is None:
            self._vanished(sandbox_id)
            return None
        if record.state == State.DELETING:
            self._wake_all(sandbox_id)
            return None
        # Those that wait for it fetch their images meanwhile.
        if not self.holds(record):
            waited_for = self._wake_all(sandbox_id)
            if not waited_for and record.state == State.BUILDING:
                return None  # Nova and Neutron have enough to do for it: it is claimed when ready
            if not self._claim(record):
                return RETRY_STOPPED if record.state == State.STOPPED else RETRY
        elif record.pause is not None:
            self._held[sandbox_id] = _Held(record.incarnation, record.pause)
        ready = record.state == State.READY
        new = sandbox_id not in self._addresses
        self._wake_all(sandbox_id, record if ready else None)
        if new and sandbox_id in self._addresses:
            return STARTS  # Neutron's work for an answer would come in between
        if ready or record.state in (State.PAUSED, State.STOPPED):
            self._learn_addresses(record)
        return None

    def _claim(self, record: contract.Sandbox) -> bool:
        claim = self._store.claim(record.instance_id)
        mine = claim is not None and claim.host == self._host
        if not (mine and claim is not None and claim.incarnation == record.incarnation):
            server = self._sandboxes.server(record.instance_id)
            if server is None or server.host != self._host:
                LOG.info(
                    'sandbox %s: Nova has it on host %s, not claimed; asked again in %g s',
                    record.instance_id,
                    server.host if server else 'none',
                    RETRY,
                )
                return False
            if server.project_id != record.project_id:
                LOG.error('sandbox %s: its record names another project', record.instance_id)
                return False
            previous = claim.incarnation if claim else None
            if not self._store.claim_sandbox(
                record.instance_id, record.project_id, self._host, record.incarnation, previous
            ):
                LOG.info('sandbox %s: another host was first to claim it', record.instance_id)
                return False
            LOG.info('sandbox %s: claimed, incarnation %s', record.instance_id, record.incarnation)
        self._held[record.instance_id] = _Held(record.incarnation, record.pause)
        return True

    def _vanished(self, sandbox_id: str) -> None:
        """Forget a sandbox that is no longer on this host, and in which nothing lives."""
        self._held.pop(sandbox_id, None)
        self._addresses.pop(sandbox_id, None)
        if self._wake_all(sandbox_id):
            return  # each of them asks Nova, and the last that ends has us look again
        claim = self._store.claim(sandbox_id)
        if claim is not None and claim.host == self._host:
            self._store.release_sandbox(sandbox_id)

    def _wake_all(self, sandbox_id: str, ready: contract.Sandbox | None = None) -> bool:
        since = time.monotonic()
        containers = self._store.containers_in(sandbox_id)
        if ready is not None:
            self._expect_addresses(ready, containers)
        for container in containers:
            self._wake(container, since)
        return bool(containers)

    def _expect_addresses(
        self, record: contract.Sandbox, containers: typing.Sequence[Container]
    ) -> None:
        """Have new containers show their addresses as soon as they run.

        What Neutron has to be asked for, their subnets, comes a little later.
        """
        if record.instance_id in self._addresses:
            return
        if not any(container.addresses for container in containers):
            self._addresses[record.instance_id] = (None, networks.addresses(record, ()))

    def _learn_addresses(self, record: contract.Sandbox) -> None:
        """Have the containers show the addresses that their sandbox has now."""
        known = self._addresses.get(record.instance_id)
        if known is not None and known[0] == record.addresses:
            return
        addresses = self._sandboxes.addresses(record)
        self._addresses[record.instance_id] = (record.addresses, addresses)
        for container in self._store.containers_in(record.instance_id):
            if container.project_id == record.project_id and container.addresses != addresses:
                self._store.observe(container.uuid, addresses=addresses)

    def _report_unusable(self, sandbox_id: str, reason: str) -> None:
        if self._unusable.get(sandbox_id) != reason:
            self._unusable[sandbox_id] = reason
            LOG.error('sandbox %s: left alone: %s', sandbox_id, reason)
