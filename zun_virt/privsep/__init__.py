"""What needs root: devices, namespaces and cgroups, in processes with few capabilities.

Every function of the modules below runs in an oslo.privsep daemon, takes and returns plain
values only, and judges for itself what it is asked for.  This module has what they share:
the contexts, whose names here are what operators allow nova-compute to start as root.
"""

from __future__ import annotations

import pyroute2
from oslo_privsep import capabilities, comm, daemon, priv_context

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


FAILURES = (
    OSError,
    PrivilegedError,
    pyroute2.NetlinkError,
    comm.PrivsepTimeout,
    daemon.FailedToDropPrivileges,
    daemon.ProtocolError,
)
"""What a call into a privileged process can raise."""
