"""(h) What it takes to give a running sandbox one more interface, against the bare commands.

As in (a), the driver runs in this process and the port is made up.  Ours looks at Docker,
takes the sandbox's lock, and writes its files and its record; the commands only wire.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
import typing

from nova.network import model

from tests.bench import spawn
from tests.bench.lab import Lab
from tests.bench.measure import Row, alternate, median
from tests.cloud import host
from zun_virt import driver

_PORTS = itertools.count(1000)


def run(rows: list[Row], lab: Lab, *, n: int = 20) -> None:
    """(h) One after another, each taken away again."""
    with contextlib.ExitStack() as stack:
        made, meta, _ = spawn.prepare(stack, lab.engine.api)
        steps = Attachments(made, meta)
        stack.callback(steps.destroy)
        ours, bare = alternate(n, steps.attach, steps.wire, warm_up=2)
    rows.append(
        Row(
            key='h',
            what='interface attached to a running sandbox; ip and ovs-vsctl',
            unit='ms',
            ours=median(ours),
            raw=median(bare),
            n=n,
            note=f'detached in {median(steps.detached):.0f} ms',
        )
    )


class Attachments:
    """Interfaces of one sandbox that has a port already."""

    def __init__(self, made_driver: driver.ZunDriver, meta: typing.Any) -> None:
        self._driver = made_driver
        self._instance, self._first = spawn.make_instance(1), spawn.make_port(next(_PORTS))
        # What nova's database would say: nothing but the first is attached for good.
        made_driver._ports.cache = lambda instance: list(self._first)  # type: ignore[method-assign]
        made_driver.spawn(None, self._instance, meta, [], None, {}, network_info=self._first)
        self._pid = str(host.pause(self._instance.uuid).attrs['State']['Pid'])
        self.detached: list[float] = []

    def attach(self) -> float:
        """Have the driver do it; returns ms."""
        (port,) = spawn.make_port(next(_PORTS))
        begin = time.perf_counter()
        self._driver.attach_interface(None, self._instance, None, port)
        end = time.perf_counter()
        self._driver.detach_interface(None, self._instance, port)
        self.detached.append((time.perf_counter() - end) * 1000)
        return (end - begin) * 1000

    def wire(self) -> float:
        """Do it by hand; returns ms."""
        (port,) = spawn.make_port(next(_PORTS))
        script = self._script(port)
        begin = time.perf_counter()
        subprocess.run(['sh', '-e', '-c', script], check=True, timeout=30)
        end = time.perf_counter()
        host.command('ovs-vsctl', '--timeout=10', 'del-port', spawn.BRIDGE, port['devname'])
        host.command('ip', 'link', 'del', port['devname'])
        return (end - begin) * 1000

    def _script(self, port: model.VIF) -> str:
        device, mac, number = port['devname'], port['address'], port['id']
        (fixed,) = port['network']['subnets'][0]['ips']
        return f"""
            ip link add {device} mtu 1450 type veth peer name bare address {mac} netns {self._pid}
            ip link set {device} up
            nsenter -t {self._pid} -n sh -e -c '
                ip addr add {fixed['address']}/16 dev bare
                ip link set bare mtu 1450 up
                ethtool -K bare tx off >/dev/null'
            ovs-vsctl --timeout=10 add-port {spawn.BRIDGE} {device} -- set Interface {device} \\
                external_ids:iface-id={number} external_ids:attached-mac={mac}
        """

    def destroy(self) -> None:
        """Remove the sandbox."""
        self._driver.destroy(None, self._instance, self._first)
