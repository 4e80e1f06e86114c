"""Both ways in which Neutron wants a port plugged, on a real Open vSwitch of the test's own."""

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason='only root can make namespaces'),
    pytest.mark.skipif(not shutil.which('ovs-vswitchd'), reason='Open vSwitch is not installed'),
]


@pytest.mark.parametrize('kind', ['direct', 'hybrid'])
def test_plugging(tmp_path, kind):
    program = [sys.executable, '-W', 'ignore', '-m', 'tests.unit.virt.on_a_switch']
    done = subprocess.run(
        ['unshare', '--net', '--mount', *program, tmp_path, kind],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
