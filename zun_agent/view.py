"""What this host shows of the sandboxes in which containers live."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterator

from zun_agent.facts import Facts
from zun_agent.models import Container
from zun_virt import sandbox as contract
from zun_virt.sandbox import State

if typing.TYPE_CHECKING:
    from zun_agent.claims import Claims
    from zun_agent.locks import SandboxLocks
    from zun_agent.runtime import Runtime


class NotYet(Exception):
    """The sandbox does not allow the step now; its record will change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What this host shows of a sandbox.

    :ivar record: None where there is no sandbox of that id on this host
    :ivar problem: why its record cannot be used, None where it can
    :ivar claimed: its containers are this host's, in this incarnation
    :ivar pause: its pause container, as far as it was looked at
    :ivar gone: it was looked for, and Docker has it no more
    """

    record: contract.Sandbox | None
    problem: str | None = None
    claimed: bool = True
    pause: Facts | None = None
    gone: bool = False

    @property
    def ready(self) -> bool:
        """Whether containers may start, as far as is known."""
        record = self.record
        if record is None or not self.claimed or record.state != State.READY:
            return False
        if self.gone or record.held:
            return False
        return self.pause is None or is_that(record, self.pause)

    @property
    def creatable(self) -> bool:
        """Whether containers may be made."""
        record = self.record
        return (
            record is not None
            and self.claimed
            and not record.held
            and record.pause is not None
            and record.state in (State.BUILDING, State.READY)
        )


def is_that(record: contract.Sandbox, pause: Facts) -> bool:
    """Tell whether the pause container runs, and is the one that the record speaks of."""
    return (
        record.pause is not None
        and pause.alive
        and (pause.id, pause.started) == (record.pause.id, record.pause.started_at)
    )


class Views:
    """Looks at sandboxes: at their records, and at what Docker shows of them."""

    def __init__(
        self,
        host: str,
        local: contract.SandboxStore,
        claims: Claims,
        runtime: Runtime,
        locks: SandboxLocks,
    ) -> None:
        """Look at the sandboxes in `local`, of which `claims` tells whose they are.

        :param host: this one's name
        """
        self._host = host
        self._local = local
        self._claims = claims
        self._runtime = runtime
        self._locks = locks
        self._boot_id = contract.boot_id()
        self._verified: dict[str, contract.PauseContainer] = {}

    def look(self, container: Container) -> View:
        """Return the sandbox of a container as its record has it."""
        assert container.sandbox_id is not None  # noqa: S101
        try:
            record = self._local.read(container.sandbox_id)
        except contract.SandboxError as error:
            return View(record=None, problem=f'Its sandbox cannot be used: {error}')
        if record is None:
            return View(record=None)
        ours = container.host in (None, self._host) and self._claims.holds(record)
        claimed = ours and record.project_id == container.project_id
        return View(record=record, claimed=claimed)

    def with_pause(self, view: View) -> View:
        """Look at the pause container, too."""
        if view.record is None:
            return view
        said = view.record.pause
        pause = self._runtime.inspect(said.id) if said else None
        return dataclasses.replace(view, pause=pause, gone=pause is None)

    @contextlib.contextmanager
    def hold(
        self, container: Container, wanted: typing.Collection[State]
    ) -> Iterator[contract.Sandbox]:
        """Keep the sandbox of a container as it is, and give its record.

        :raises NotYet: it is not, or no more, as `wanted`
        :raises zun_virt.sandbox.SandboxBusy: the driver works on it
        """
        with self._locks.hold(str(container.sandbox_id)):
            view = self.look(container)
            record = view.record
            if record is None or not view.claimed or record.pause is None:
                raise NotYet('the sandbox is not there')
            if record.state not in wanted:
                raise NotYet(f'the sandbox is {record.state}')
            if record.held:
                raise NotYet('the sandbox is being rescued')
            # While its network is being made there is time to look, and later there is not.
            if not self._verified_now(record, record.pause) and record.state == State.READY:
                raise NotYet('the sandbox is said to be ready, and is not')
            yield record

    def pause_changed(self, sandbox_id: str | None = None) -> None:
        """Believe no more what is known of a sandbox's pause container, or of any."""
        if sandbox_id is None:
            self._verified.clear()
        else:
            self._verified.pop(sandbox_id, None)

    def _verified_now(self, record: contract.Sandbox, said: contract.PauseContainer) -> bool:
        """Tell whether the pause container is the one that the record speaks of, and runs."""
        if self._verified.get(record.instance_id) == said:
            return True
        pause = self._runtime.inspect(said.id)
        if pause is None or said.boot_id != self._boot_id or not is_that(record, pause):
            return False
        self._verified[record.instance_id] = said
        return True
