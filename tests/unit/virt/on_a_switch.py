"""Plugs ports on an Open vSwitch of its own; `tests.unit.virt.test_switch` runs it.

It needs a network namespace, which goes with it.  Two processes in namespaces of their own,
without capabilities, as the pause process is, stand for sandboxes.  The switch works in
userspace, so that no kernel module is needed.

The first argument is a directory for the switch, the second ``direct`` or ``hybrid``.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

from nova import conf
from oslo_privsep import priv_context
from vif_plug_ovs import privsep as ovs_privsep

import tests  # noqa: F401 - says how nova does things at a time, before nova is there
from tests.unit.virt.conftest import make_instance, make_subnet, make_vif
from zun_virt import network, privsep

BRIDGE = 'br-int'
ADDRESSES = ['10.0.0.5', '10.0.0.6']
PATIENCE = 15.0  # seconds within which the switch has learnt a port


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f'{" ".join(words)}: {done.stderr}'
    return done.stdout


def start(stack, *words, **options):
    """Start a process that ends with us."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, **options)
    stack.callback(process.wait, 10)
    stack.callback(process.kill)
    return process


def until(what, true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f'not within {PATIENCE} s: {what}'
        time.sleep(0.1)


def start_switch(stack, directory):
    os.environ.update(dict.fromkeys(('OVS_RUNDIR', 'OVS_DBDIR', 'OVS_LOGDIR'), str(directory)))
    run('ip', 'link', 'set', 'lo', 'up')
    database, socket = directory / 'conf.db', f'unix:{directory}/db.sock'
    run('ovsdb-tool', 'create', str(database), '/usr/share/openvswitch/vswitch.ovsschema')
    remotes = [f'--remote=punix:{directory}/db.sock', '--remote=ptcp:6640:127.0.0.1']
    quiet = {'stderr': subprocess.DEVNULL}
    start(stack, 'ovsdb-server', str(database), *remotes, f'--unixctl={directory}/db.ctl', **quiet)
    until('database', (directory / 'db.sock').exists)
    switch('--no-wait', 'init')
    start(stack, 'ovs-vswitchd', socket, f'--unixctl={directory}/vswitchd.ctl', **quiet)
    switch('add-br', BRIDGE, '--', 'set', 'bridge', BRIDGE, 'datapath_type=netdev')


def switch(*words):
    return run('ovs-vsctl', '--timeout=10', '--db=tcp:127.0.0.1:6640', *words)


def links():
    found = {link['ifname'] for link in json.loads(run('ip', '-json', 'link'))}
    return {name for name in found if name.startswith(('tap', 'qbr', 'qvb', 'qvo'))}


class Box:
    """What stands for a sandbox, with one port."""

    def __init__(self, stack, number, hybrid):
        self._stack = stack
        details = {'port_filter': True, 'ovs_hybrid_plug': hybrid, 'datapath_type': 'netdev'}
        subnet = make_subnet(ips=[ADDRESSES[number]])
        self.vif = make_vif(number + 1, subnets=[subnet], details=details)
        self.instance = make_instance(id=number, hostname='box')
        self.begin()

    def begin(self):
        drop = ('setpriv', '--bounding-set=-all', '--inh-caps=-all')
        self.process = start(self._stack, 'unshare', '--net', *drop, 'sleep', '300')
        own = pathlib.Path('/proc/self/ns/net').readlink()
        status = pathlib.Path(f'/proc/{self.process.pid}')
        until('namespace', lambda: (status / 'ns/net').readlink() != own)
        until('process', lambda: (status / 'comm').read_text() == 'sleep\n')

    def end(self):
        self.process.kill()
        self.process.wait(10)

    def reaches(self, address):
        within = ('nsenter', '-t', str(self.process.pid), '-n')
        ping = subprocess.run([*within, 'ping', '-c', '1', '-W', '1', address], capture_output=True)
        return ping.returncode == 0


def assert_wired(boxes, hybrid):
    """Each port is where Neutron wants it."""
    on_switch = set(switch('list-ports', BRIDGE).split())
    for box in boxes:
        ends = {kind: f'{kind}{box.vif["id"]}'[:14] for kind in ('tap', 'qbr', 'qvb', 'qvo')}
        port = ends['qvo' if hybrid else 'tap']
        assert port in on_switch, on_switch
        assert box.vif['id'] in switch('get', 'Interface', port, 'external_ids')
        if hybrid:
            members = json.loads(run('ip', '-json', 'link', 'show', 'master', ends['qbr']))
            assert {link['ifname'] for link in members} == {ends['tap'], ends['qvb']}
    assert len(on_switch) == len(boxes)
    until('there', lambda: boxes[0].reaches(ADDRESSES[1]))
    until('and back', lambda: boxes[1].reaches(ADDRESSES[0]))


def main(directory, kind):
    hybrid = kind == 'hybrid'
    with contextlib.ExitStack() as stack:
        start_switch(stack, directory)
        conf.CONF([], project='nova', default_config_files=[])
        for context in (privsep.network, ovs_privsep.vif_plug):
            context.start(priv_context.Method.FORK)
            stack.callback(context.stop)
        wiring = network.Network()
        boxes = [Box(stack, number, hybrid) for number in range(2)]
        for box in boxes:
            wiring.plug(box.instance, [box.vif], box.process.pid, fresh=True)
        assert_wired(boxes, hybrid)
        # Nothing is lost by doing it again.
        wiring.plug(boxes[0].instance, [boxes[0].vif], boxes[0].process.pid, fresh=False)
        assert_wired(boxes, hybrid)
        # The namespace goes, and with it one end of the pair.
        boxes[0].end()
        wiring.unplug(boxes[0].instance, [boxes[0].vif])
        boxes[0].begin()
        wiring.plug(boxes[0].instance, [boxes[0].vif], boxes[0].process.pid, fresh=True)
        assert_wired(boxes, hybrid)
        for box in (*boxes, *boxes):
            wiring.unplug(box.instance, [box.vif])
        assert links() == set()
        assert switch('list-ports', BRIDGE) == ''


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
