"""What a sandbox's owner and its operator may want to see of it."""

from __future__ import annotations

import math
import re
import time
import typing
from collections.abc import Iterable, Mapping

from nova import objects
from oslo_log import log as logging

from zun_virt import containers, host, lifecycle

LOG = logging.getLogger(__name__)

_CONSOLE_LINES = 200
_CONSOLE_BYTES = 100_000
_STAMP = re.compile(rb'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*')
_DISK = ('read_bytes', 'read_requests', 'write_bytes', 'write_requests')


def console(docker: host.Host, instance_id: str) -> str | None:
    """Return the recent output of a sandbox's containers, None when there is no sandbox.

    nova passes the text on as Latin-1, so every byte is one character of it.  It would
    count the nothing after a last newline as a line of those that are asked for.
    """
    containers = docker.containers(instance_id)
    if not any(container.is_pause for container in containers):
        return None
    outputs = []
    for container in sorted(containers, key=lambda container: container.user_name):
        if container.is_pause:
            continue
        try:
            outputs.append((container.user_name, docker.log_tail(container.id, _CONSOLE_LINES)))
        except host.NotFound:
            LOG.debug('Container %s was removed meanwhile', container.name)
    return merge(outputs, _CONSOLE_BYTES).removesuffix(b'\n').decode('latin-1')


def merge(outputs: Iterable[tuple[str, bytes]], size: int) -> bytes:
    """Return the lines of several outputs in the order in which they were written.

    :param outputs: names and what `Host.log_tail` returned; the name goes before each line
    :param size: in bytes, of the last whole lines that are wanted
    """
    lines: list[tuple[str, bytes]] = []
    for name, output in outputs:
        time_ = ''
        for line in output.splitlines():
            stamp, _, text = line.partition(b' ')
            # A long line comes in parts, of which only the first need have a time.
            time_, text = (stamp.decode(), text) if _STAMP.fullmatch(stamp) else (time_, line)
            lines.append((time_, b'%s: %s\n' % (name.encode(), text)))
    merged = b''.join(text for _, text in sorted(lines, key=lambda line: line[0]))
    if len(merged) > size:
        merged = merged[-size:].partition(b'\n')[2]
    return merged


def diagnostics(
    made: lifecycle.Made | None,
    usage: Mapping[str, int],
    traffic: Mapping[str, Mapping[str, int]],
    state: str,
    *,
    config_drive: bool,
) -> typing.Any:
    """Return nova's description of what a sandbox uses.

    :param made: the sandbox as it runs, None when it does not
    :param usage: of its cgroup
    :param traffic: of its interfaces, by MAC address
    :param state: nova's word for its power state
    :param config_drive: whether it has one
    """
    found = objects.diagnostics.Diagnostics(
        state=state,
        # nova knows no word for any driver but its own; `hypervisor` tells the truth.
        driver='libvirt',
        hypervisor='docker',
        hypervisor_os='linux',
        uptime=_seconds_since(made.record.pause.started_at) if made and made.record.pause else None,
        config_drive=config_drive,
    )
    limits = made.record.limits if made else None
    found.memory_details = objects.diagnostics.MemoryDiagnostics(
        maximum=limits.memory_mb if limits else None,
        used=_held(usage) >> 20 if 'memory' in usage else None,
    )
    # The time is of all cores together.
    found.add_cpu(id=0, time=usage.get('cpu'))
    if limits and limits.cpus:
        found.num_cpus = math.ceil(limits.cpus)
    if 'read_bytes' in usage:
        found.add_disk(
            **{name: usage.get(name) for name in _DISK if name in usage}, errors_count=None
        )
    for mac, numbers in traffic.items():
        found.add_nic(mac_address=mac, **_nic(numbers))
    return found


def _nic(numbers: Mapping[str, int]) -> dict[str, int]:
    words = (('bytes', 'octets'), ('packets', 'packets'), ('errors', 'errors'), ('dropped', 'drop'))
    return {
        f'{way}_{theirs}': numbers[f'{way}_{ours}']
        for way in ('rx', 'tx')
        for ours, theirs in words
    }


def _held(usage: Mapping[str, int]) -> int:
    """Return the bytes of memory that the kernel could not take back."""
    return max(0, usage['memory'] - usage.get('reclaimable', 0))


def flat_diagnostics(
    usage: Mapping[str, int], traffic: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    """Return the same as plain numbers, for clients of old API versions."""
    found = {f'sandbox_{name}': value for name, value in usage.items()}
    for mac, numbers in traffic.items():
        found |= {f'{mac}_{name}': value for name, value in numbers.items()}
    return found


def _seconds_since(started_at: str) -> int | None:
    try:
        return max(0, int(time.time() - containers.moment(started_at).timestamp()))
    except ValueError:
        return None
