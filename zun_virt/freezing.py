"""Sandboxes that are frozen as a whole, and thawed.

A record says so before anything is frozen and until all is thawed, so that what was cut off in
between can be told from what nova asked for.  Users freeze containers of their own: the record
names them, and they stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterable

from oslo_log import log as logging

from zun_virt import host, lifecycle
from zun_virt.containers import Container, each, users_first
from zun_virt.sandbox import Sandbox, State
from zun_virt.steps import Steps

LOG = logging.getLogger(__name__)


def freeze(docker: host.Host, sandboxes: lifecycle.Lifecycle, instance_id: str) -> None:
    """Freeze all containers of a sandbox, or none when one cannot be.

    :raises zun_virt.host.HostError: one cannot; should thawing fail, too, the record goes on
        to say that the sandbox is paused, and `thaw` may be tried again
    """
    with sandboxes.lock(instance_id):
        steps = Steps()
        containers = docker.containers(instance_id)
        before = record = sandboxes.record(instance_id)
        if record is not None and record.state is not State.PAUSED:
            users = [c for c in containers if c.container_id and c.alive]
            # Of those that die with a pause container that is removed Docker tells nothing.
            record = record.replace(
                state=State.PAUSED, frozen=_ids(users), paused=_ids(users, 'paused')
            )
            sandboxes.store.write(record)
        try:
            for group in users_first(containers):
                each(docker.pause, [c.id for c in group if c.state == 'running'])
            steps.done('containers')
        except host.HostError as failure:
            try:
                _thaw(docker, instance_id, record)
            except host.HostError as error:
                LOG.warning(
                    'Sandbox %s cannot be frozen (%s), and not be thawed again: %s; the next pass '
                    'tries that',
                    instance_id,
                    failure,
                    error,
                )
            else:
                if before is not None and before is not record:
                    sandboxes.store.write(before)
            raise
    LOG.debug('Sandbox %s: frozen in %s', instance_id, steps)


def thaw(docker: host.Host, sandboxes: lifecycle.Lifecycle, instance_id: str) -> None:
    """Thaw all containers of a sandbox but those that their users froze before it was.

    :raises zun_virt.host.HostError: one cannot be; it may be tried again
    """
    with sandboxes.lock(instance_id):
        steps = Steps()
        record = sandboxes.record(instance_id)
        _thaw(docker, instance_id, record)
        steps.done('containers')
        if record is not None and record.state is State.PAUSED:
            sandboxes.store.write(record.replace(state=State.READY, frozen=(), paused=()))
    LOG.debug('Sandbox %s: thawed in %s', instance_id, steps)


def _thaw(docker: host.Host, instance_id: str, record: Sandbox | None) -> None:
    users, pauses = users_first(docker.containers(instance_id))
    if record is not None:
        ours = record.state is not State.READY  # else nothing was frozen but by users
        users = [user for user in users if ours and user.container_id not in record.paused]
    for group in (pauses, users):
        each(docker.unpause, [c.id for c in group if c.state == 'paused'])


def _ids(users: Iterable[Container], state: str | None = None) -> tuple[str, ...]:
    return tuple(c.container_id for c in users if c.container_id and state in (None, c.state))
