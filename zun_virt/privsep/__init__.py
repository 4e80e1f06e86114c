"""What needs root: devices, namespaces and cgroups, in processes with few capabilities.

Every function of the modules below runs in an oslo.privsep daemon, takes and returns plain
values only, and judges for itself what it is asked for.  This module has what they share:
the contexts, whose names here are what operators allow nova-compute to start as root.
"""

from __future__ import annotations

import concurrent.futures
import shlex

import pyroute2
from oslo_privsep import capabilities, comm, daemon, priv_context
from vif_plug_ovs import privsep as vif_plug_ovs

# Joining a namespace takes SYS_ADMIN.  The daemon's user is root, and so is the owner of
# cgroup files and of the pause process: what is root's own takes no capability.
network = priv_context.PrivContext(
    'zun_virt',
    cfg_section='zun_virt_network_privileged',
    pypath=__name__ + '.network',
    capabilities=[capabilities.CAP_NET_ADMIN, capabilities.CAP_SYS_ADMIN],
    timeout=60.0,
)

mounts = priv_context.PrivContext(
    'zun_virt',
    cfg_section='zun_virt_mounts_privileged',
    pypath=__name__ + '.mounts',
    capabilities=[capabilities.CAP_SYS_ADMIN, capabilities.CAP_DAC_OVERRIDE],
    timeout=60.0,
)


class PrivilegedError(Exception):
    """A privileged step failed; the message says which."""


class RouteRefused(PrivilegedError):
    """The kernel takes no such route; the message says which."""


FAILURES = (
    OSError,
    PrivilegedError,
    pyroute2.NetlinkError,
    comm.PrivsepTimeout,
    daemon.FailedToDropPrivileges,
    daemon.ProtocolError,
)
"""What a call into a privileged process can raise."""


def start() -> None:
    """Start the processes that run as root, those of os-vif included.

    They would start when they are first needed: the first sandbox would wait for them, and
    meet what is wrong with the operator's sudo line.

    :raises PrivilegedError: one cannot be started; the message says which, and by what command
    """
    contexts = [network, mounts, vif_plug_ovs.vif_plug]
    with concurrent.futures.ThreadPoolExecutor(len(contexts)) as pool:
        for _ in pool.map(_start, contexts):
            pass


def _start(context: priv_context.PrivContext) -> None:
    if context.channel is not None:
        return
    try:
        context.start()
    except FAILURES as error:
        command = shlex.join(context.helper_command('SOCKET'))
        raise PrivilegedError(
            f'what runs as root cannot be started: {error}. The command is: {command}. What it '
            'said is in the log before this'
        ) from error


def reach_root_by(helper: str) -> None:
    """Set by what command root is reached where a context's options do not say.

    nova-compute does so by itself.

    :param helper: as nova's ``utils.get_root_helper`` returns it
    """
    priv_context.init(root_helper=shlex.split(helper))
