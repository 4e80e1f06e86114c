"""The samples that operators copy say what the code says."""

import pathlib
import subprocess
import sys

import pytest

ETC = pathlib.Path(__file__).parents[2] / 'etc'
GENERATE = {
    'nova/zun-virt.conf.sample': ('oslo-config-generator', 'zun_virt'),
    'zun/zun-agent.conf.sample': ('oslo-config-generator', 'zun_agent'),
    'zun/policy.yaml.sample': ('oslopolicy-sample-generator', 'zun_agent'),
}


def generate(name):
    command, namespace = GENERATE[name]
    command = pathlib.Path(sys.executable).parent / command
    done = subprocess.run(
        [command, '--namespace', namespace], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('name', GENERATE)
def test_the_sample_is_current(name):
    assert generate(name) == (ETC / name).read_text()
