"""Reading the output of a command that Docker runs in a container.

Docker never ends the stream of a command whose container, in a shared PID namespace,
ends before it. So silence is not trusted: the command's state is looked at again and
again, and the stream is left when the command is gone.
"""

from __future__ import annotations

import dataclasses
import io
import select
import struct
import time
from collections.abc import Callable

from zun_agent import errors

KILLED = 137
"""Exit code of what was killed with its container, as a shell tells it."""

SILENCE = 2.0
"""Seconds without output after which it is checked that the command still runs."""

MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes of output that are kept in memory for one command."""

_HEADER = struct.Struct('>BxxxL')


@dataclasses.dataclass(frozen=True)
class State:
    """What Docker tells of a command."""

    running: bool
    exit_code: int | None


def collect(stream: io.BufferedReader, running: Callable[[], bool]) -> bytes:
    """Read the whole output of a command: stdout and stderr in the order they came.

    :param stream: the hijacked connection, as the HTTP client leaves it
    :param running: asks Docker whether the command does
    :raises errors.Conflict: there is more output than can be kept
    """
    connection = stream.raw._sock  # type: ignore[attr-defined]
    connection.setblocking(False)
    # The first output may have come together with the answer's header.
    data = bytearray(stream.peek())
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while len(data) <= MAX_OUTPUT:
        alive = True
        if not poll.poll(SILENCE * 1000):
            alive = running()
            if not poll.poll(0):
                if alive:
                    continue
                break
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
    else:
        raise errors.Conflict(
            f'The command wrote more than {MAX_OUTPUT >> 20} MiB, and was left alone.'
        )
    return join_frames(bytes(data))


def join_frames(data: bytes) -> bytes:
    """Return the contents of Docker's frames without their headers.

    A frame that is cut short gives what is there of it.
    """
    parts, position = [], 0
    while position + _HEADER.size <= len(data):
        _, length = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        parts.append(data[position : position + length])
        position += length
    return b''.join(parts)


def exit_code(state: Callable[[], State], patience: float = 5.0) -> int | None:
    """Return the exit code of a command whose output ended; Docker tells it a little late.

    :param patience: seconds to wait for Docker to say so
    :returns: None for a command that goes on after it closed its output
    """
    deadline = time.monotonic() + patience
    while True:
        found = state()
        if not found.running:
            return found.exit_code
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)
