"""The life of a sandbox on this host: its directory, cgroup, record and containers.

Everything here may be done again: what is there is kept, what has gone is fine.  The
sandbox's lock is held around every change, so that the agent starts nothing in between.
The network is the caller's: a sandbox is ``building`` until `Lifecycle.ready` is called.
"""

from __future__ import annotations

import contextlib
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence

from oslo_log import log as logging

from zun_virt import cgroup, ends, host, pause, sandbox
from zun_virt.containers import each, users_first
from zun_virt.sandbox import Sandbox, State
from zun_virt.steps import Steps

LOG = logging.getLogger(__name__)

_PAUSE_STOP_SECONDS = 10


class Made(typing.NamedTuple):
    """A sandbox as it was made or found.

    :ivar pid: of its pause container's process, 0 when none runs
    """

    record: Sandbox
    pid: int


class Lifecycle:
    """Makes, starts, stops and removes sandboxes."""

    def __init__(
        self,
        docker: host.Host,
        cgroups: cgroup.Cgroups,
        store: sandbox.SandboxStore,
        lock_timeout: float,
    ) -> None:
        """Keep sandboxes in `docker`, `cgroups` and `store`.

        :param lock_timeout: seconds to wait for the agent to let go of a sandbox
        """
        self._docker = docker
        self._cgroups = cgroups
        self.store = store
        self._lock_timeout = lock_timeout
        self._boot_id = sandbox.boot_id()

    @contextlib.contextmanager
    def lock(self, instance_id: str) -> Iterator[None]:
        """Hold the sandbox's lock, of which nothing is left when there is no sandbox."""
        with self.store.lock(instance_id, self._lock_timeout):
            try:
                yield
            finally:
                if not self.store.directory(instance_id).is_dir():
                    self.store.discard_lock(instance_id)

    def record(self, instance_id: str) -> Sandbox | None:
        """Return the sandbox's record, None when it has none or an unreadable one."""
        try:
            return self.store.read(instance_id)
        except sandbox.SandboxError as error:
            LOG.warning('Sandbox %s: %s', instance_id, error)
            return None

    def make(
        self, record: Sandbox, limits: cgroup.Limits, *, image: str, name: str, start: bool
    ) -> Made:
        """Create a sandbox, and start its pause container.

        :param record: what it shall be; its state and pause container are set here
        :param image: Docker's id of its image
        :param name: by which nova's driver interface knows it
        :param start: False to leave it stopped
        """
        with self.lock(record.instance_id):
            record = record.replace(state=State.BUILDING, pause=None, frozen=(), paused=())
            self.store.create(record.instance_id)
            for file in sandbox.FILE_TARGETS:
                # Docker would make a directory in the place of a missing one.
                self.store.write_file(
                    record.instance_id, file, f'{record.hostname}\n' if file == 'hostname' else ''
                )
            self.store.write(record)
            self._cgroups.create(record.cgroup_parent, limits)
            request = pause.request(record, image=image, store=self.store, name=name)
            container = self._create(record.instance_id, request)
            if start:
                return self._run(record, container)
            record = record.replace(state=State.STOPPED)
            self.store.write(record)
        return Made(record, 0)

    def running(self, instance_id: str) -> Made | None:
        """Return a sandbox whose pause container runs as its record says, else None."""
        record = self.record(instance_id)
        container = self._docker.pause_container(instance_id)
        if record is None or container is None or not self._is(record, container):
            return None
        return Made(record, container.pid)

    def start(self, record: Sandbox, limits: cgroup.Limits) -> Made | None:
        """Start the pause container of a sandbox that is stopped.

        :param record: what it was; its `running` is kept
        :returns: None when there is no pause container to start
        """
        with self.lock(record.instance_id):
            container = self._docker.pause_container(record.instance_id)
            if container is None:
                return None
            record = record.replace(state=State.BUILDING, pause=None, frozen=(), paused=())
            self.store.create(record.instance_id)
            self.store.write(record)
            # The host may have been started anew since, and its cgroups with it.
            self._cgroups.create(record.cgroup_parent, limits)
            return self._run(record, container.id)

    def ready(self, instance_id: str, addresses: Iterable[sandbox.Address]) -> None:
        """Tell the agent that the sandbox's network works.

        :raises zun_virt.host.Conflict: its pause container has died meanwhile
        """
        with self.lock(instance_id):
            record = self.store.read(instance_id)
            container = self._docker.pause_container(instance_id)
            if record is None or record.pause is None or container is None or not container.pid:
                raise host.Conflict(f'sandbox {instance_id} ended while its network was made')
            if record.state not in (State.BUILDING, State.READY, State.PAUSED):
                raise host.Conflict(f'sandbox {instance_id} is {record.state}')
            if container.started_at != record.pause.started_at:
                raise host.Conflict(f'sandbox {instance_id} was started by somebody else')
            # One that is frozen or thawed in part stays paused, until it is so as a whole.
            paused = container.state == 'paused' or record.state is State.PAUSED
            state = State.PAUSED if paused else State.READY
            record = record.replace(state=state, addresses=tuple(addresses))
            if record != self.store.read(instance_id):
                self.store.write(record)

    def write_files(self, instance_id: str, files: dict[str, str]) -> None:
        """Write files that its containers see, by their names in `sandbox.FILE_TARGETS`."""
        for name, content in files.items():
            self.store.write_file(instance_id, name, content)

    def stop(self, instance_id: str, timeout: int, unplug: Callable[[], None]) -> None:
        """Stop a sandbox: its users' containers side by side, then its pause container.

        :param timeout: seconds between their stop signals and SIGKILL
        :param unplug: takes its interfaces from the host, once nothing runs
        """
        with self.lock(instance_id):
            steps = Steps()
            containers = self._docker.containers(instance_id)
            record = self.record(instance_id)
            if record is not None and record.state is not State.STOPPED:
                running = self._running(record, containers)
                record = record.replace(state=State.STOPPING, running=running)
                self.store.write(record)
            self._stop_containers(containers, timeout)
            steps.done('containers')
            unplug()
            steps.done('network')
            if record is not None:
                self.store.write(record.replace(state=State.STOPPED, pause=None))
        LOG.debug('Sandbox %s: stopped in %s', instance_id, steps)

    def remove(self, instance_id: str, timeout: int, unplug: Callable[[], None]) -> None:
        """Remove a sandbox and all that belongs to it, as far as it is there.

        :param timeout: seconds between its containers' stop signals and SIGKILL
        :param unplug: takes its interfaces from the host, once nothing runs
        """
        with self.lock(instance_id):
            steps = Steps()
            record = self.record(instance_id)
            if record is not None:
                self.store.write(record.replace(state=State.DELETING, pause=None))
            try:
                containers = self._docker.containers(instance_id)
                self._stop_containers(containers, timeout)
                steps.done('stop')
            finally:
                # nova gives the ports up even if this fails, and names none the next time.
                unplug()
            steps.done('network')
            for group in users_first(containers):
                each(self._docker.remove, [container.id for container in group])
            self._cgroups.remove(record.cgroup_parent if record else self._parent(instance_id))
            self.store.remove(instance_id)
            steps.done('removal')
        LOG.debug('Sandbox %s: removed in %s', instance_id, steps)

    def note_end(self, instance_id: str, *, again: bool) -> Sandbox | None:
        """Write down that a sandbox's pause container has ended by itself, if it has.

        What ran in it died with it; the record names it, to run again.

        :param again: whether the sandbox is to be started again at once
        :returns: the record as it was, None when there was nothing to write
        """
        with self.lock(instance_id):
            record = self.record(instance_id)
            if record is None or record.state in (State.STOPPED, State.DELETING):
                return None
            container = self._docker.pause_container(instance_id)
            if container is not None and container.alive:
                return None
            running = self._running(record, self._docker.containers(instance_id))
            fresh = record.replace(state=State.STOPPED, pause=None, running=running)
            if again:
                # Still with the identity that has ended, by which `unsettled` knows it.
                fresh = fresh.replace(state=State.BUILDING, pause=record.pause)
            self.store.write(fresh)
            return record

    def reopen(self, record: Sandbox) -> None:
        """Take back a stop that was not finished, or a failed start: it is made ready next."""
        with self.lock(record.instance_id):
            self.store.write(record.replace(state=State.BUILDING))

    def unsettled(self, instance_id: str) -> bool:
        """Return whether a sandbox's end, of which nobody has judged yet, is what its record hides.

        To be asked only when its pause container does not run.
        """
        record = self.record(instance_id)
        promising = (State.READY, State.PAUSED, State.BUILDING)
        return bool(record and record.state in promising and self.same_boot(record))

    def same_boot(self, record: Sandbox) -> bool:
        """Return whether the host has been up since the recorded pause container was started."""
        return record.pause is not None and record.pause.boot_id == self._boot_id

    def _is(self, record: Sandbox, container: host.Container) -> bool:
        """Return whether the container runs as the very one that the record speaks of."""
        if not container.pid or record.pause is None:
            return False
        return record.pause == self._identity(container)

    def _identity(self, container: host.Container) -> sandbox.PauseContainer:
        return sandbox.PauseContainer(
            id=container.id, started_at=container.started_at, boot_id=self._boot_id
        )

    def _parent(self, instance_id: str) -> str:
        """Return the cgroup of a sandbox whose record is lost."""
        driver = 'systemd' if isinstance(self._cgroups, cgroup.Systemd) else 'cgroupfs'
        return sandbox.cgroup_parent(instance_id, driver)

    def _create(self, instance_id: str, request: dict[str, typing.Any]) -> str:
        """Create the pause container, in the place of what an earlier attempt left."""
        name = sandbox.sandbox_name(instance_id)
        try:
            return self._docker.create(name, request)
        except host.Conflict:
            left = self._docker.pause_container(instance_id)
            if left is None:
                raise
            LOG.info('Sandbox %s: replacing container %s of an earlier attempt', instance_id, left)
            self._docker.remove(left.id)
            return self._docker.create(name, request)

    def _run(self, record: Sandbox, container: str) -> Made:
        self._docker.start(container)
        started = self._docker.inspect(container)
        if not started.pid:
            raise host.HostError(
                f'The pause container of sandbox {record.instance_id} ended at once, with exit '
                f'code {started.exit_code}'
            )
        record = record.replace(pause=self._identity(started))
        self.store.write(record)
        return Made(record, started.pid)

    def _running(self, record: Sandbox, containers: Sequence[host.Container]) -> tuple[str, ...]:
        """Return which users' containers run, or died with the sandbox.

        They run again when it does.  The record of a sandbox that was not ready names
        those that have not been started yet.
        """
        users = [container for container in containers if container.container_id]
        alive = [user.container_id for user in users if user.container_id and user.alive]
        return tuple(dict.fromkeys((*alive, *self._not_alive(record, users))))

    def _not_alive(self, record: Sandbox, users: Iterable[host.Container]) -> Sequence[str]:
        if record.held or record.state not in (State.READY, State.PAUSED):
            return record.running
        ended = self._docker.pause_container(record.instance_id)
        if ended is not None and ended.pid:
            return ()
        if record.frozen or ended is None:
            return record.frozen  # nothing that is frozen ends by itself
        others = self._inspected(user for user in users if not user.alive)
        return [user.container_id or '' for user in others if ends.died_with(user, ended)]

    def _inspected(self, containers: Iterable[host.Container]) -> Iterator[host.Container]:
        for container in containers:
            with contextlib.suppress(host.NotFound):
                yield self._docker.inspect(container.id)

    def _stop_containers(self, containers: Sequence[host.Container], timeout: int) -> None:
        # With cgroup v1 a frozen process cannot be killed, and its sandbox not stopped.
        each(self._docker.unpause, [c.id for c in containers if c.state == 'paused'])
        users, pauses = users_first(containers)
        each(lambda name: self._docker.stop(name, timeout), [c.id for c in users if c.alive])
        # Nobody waits for the pause process of a sandbox that is killed.
        limit = min(timeout, _PAUSE_STOP_SECONDS)
        each(lambda name: self._docker.stop(name, limit), [c.id for c in pauses if c.alive])


def new_incarnation() -> str:
    """Return a name for a pause container that is made anew."""
    return str(uuid.uuid4())


def describe(instance: typing.Any, limits: cgroup.Limits, host_name: str, parent: str) -> Sandbox:
    """Return the record of a sandbox that is to be made for a server.

    :param instance: nova's object
    :param parent: its cgroup
    """
    return Sandbox(
        instance_id=instance.uuid,
        project_id=instance.project_id,
        user_id=instance.user_id,
        name=instance.display_name or instance.name,
        hostname=instance.hostname or instance.uuid,
        host=host_name,
        state=State.BUILDING,
        incarnation=new_incarnation(),
        cgroup_parent=parent,
        limits=sandbox.Limits(
            cpus=limits.cores,
            memory_mb=limits.memory >> 20,
            pids=limits.pids,
            disk_gb=instance.flavor.root_gb or None,
        ),
        metadata=dict(instance.metadata or {}),
    )
