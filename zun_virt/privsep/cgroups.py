"""Cgroups of sandboxes, as root."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import time
import typing
from collections.abc import Iterator, Sequence

from zun_virt import confined
from zun_virt.privsep import PrivilegedError, mounts, network


# The root of a hierarchy is writable for nobody: the first sandbox of a host needs more
# than to own it.
@mounts.entrypoint
def make_cgroup(directories: Sequence[str], settings: Sequence[Sequence[str | bool]]) -> None:
    """Create the directories, then write the settings.

    :param directories: absolute paths, parents first
    :param settings: path, value, and whether the kernel may lack or refuse it
    :raises PrivilegedError: one is not of a sandbox
    :raises OSError: a setting that must be was refused
    """
    with _sandboxes_only() as places:
        for directory in directories:
            confined.make_directory(directory, places)
        for path, value, optional in settings:
            try:
                with confined.control_file(str(path), places) as descriptor:
                    os.write(descriptor, str(value).encode())
            except OSError as error:
                if not optional:
                    text = f'{error.strerror}: {value!r} to {path}'
                    raise OSError(error.errno, text) from error


@network.entrypoint
def remove_cgroup(directories: Sequence[str], seconds: float) -> list[str]:
    """Remove the directories and those below them; one that is gone is fine.

    A process that is still in one is killed: with containerd killed while it started a
    container, Docker can know nothing of the process, and nobody else would end it.

    :param seconds: to go on trying while the kernel still finds a dying process in one
    :returns: those that are still in use after that time
    :raises PrivilegedError: one is not of a sandbox
    """
    deadline = time.monotonic() + seconds
    left = list(directories)
    with _sandboxes_only() as places:
        while left:
            left = [directory for directory in left if not confined.remove(directory, places)]
            if not left or time.monotonic() >= deadline:
                break
            _kill(left)
            time.sleep(0.02)
    return left


def _kill(directories: Sequence[str]) -> None:
    """Kill what runs in cgroups; the first process of a sandbox takes all others with it."""
    for directory in directories:
        for file in pathlib.Path(directory).rglob('cgroup.procs'):
            # A cgroup that goes meanwhile is what is wanted.
            with contextlib.suppress(FileNotFoundError):
                for process in file.read_text().split():
                    # So is a process that goes; and users' own, which are not root's and
                    # cannot be killed from here, go with the first one.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(int(process), signal.SIGKILL)


@network.entrypoint
def systemd(method: str, signature: str, body: Sequence[typing.Any], seconds: float) -> None:
    """Call a method of systemd's manager object on the system bus.

    :param signature: D-Bus types of `body`
    :param seconds: to wait for the answer
    :raises PrivilegedError: systemd refused, and the message starts with the D-Bus error's
        name; or it is not about the slice of a sandbox
    """
    with _sandboxes_only():
        confined.check_systemd(method, signature, body)
    # Only hosts with Docker's systemd driver need the library.
    from jeepney import DBusAddress, MessageType, new_method_call
    from jeepney.io.blocking import open_dbus_connection

    manager = DBusAddress(
        '/org/freedesktop/systemd1',
        bus_name='org.freedesktop.systemd1',
        interface='org.freedesktop.systemd1.Manager',
    )
    with contextlib.closing(open_dbus_connection('SYSTEM')) as connection:
        call = new_method_call(manager, method, signature, tuple(body))
        reply = connection.send_and_get_reply(call, timeout=seconds)
    if reply.header.message_type is MessageType.error:
        name = next(
            (value for field, value in reply.header.fields.items() if field.name == 'error_name'),
            'error',
        )
        raise PrivilegedError(f'{name}: {" ".join(map(str, reply.body))}')


@contextlib.contextmanager
def _sandboxes_only() -> Iterator[list[str]]:
    """Find where cgroups are, and raise as ours what is refused within."""
    try:
        yield confined.cgroup_mounts()
    except confined.Refused as error:
        raise PrivilegedError(f'refused: {error}') from error
