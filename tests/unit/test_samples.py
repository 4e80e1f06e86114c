"""The samples that operators copy say what the code says."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ETC = ROOT / 'etc'
GENERATE = {
    'nova/zun-virt.conf.sample': (
        'oslo-config-generator',
        '--config-file=etc/oslo-config-generator/zun-virt.conf',
    ),
    'zun/zun-agent.conf.sample': (
        'oslo-config-generator',
        '--config-file=etc/oslo-config-generator/zun-agent.conf',
    ),
    'zun/policy.yaml.sample': ('oslopolicy-sample-generator', '--namespace=zun_agent'),
}


def test_systemd_can_read_the_unit(tmp_path):
    """It tells of what it does not know, and ignores it."""
    installed = str(pathlib.Path(sys.executable).parent / 'zun-agent')
    unit = tmp_path / 'zun-agent.service'
    unit.write_text(
        (ETC / 'systemd' / unit.name).read_text().replace('/usr/bin/zun-agent', installed)
    )
    assert installed in unit.read_text()
    done = subprocess.run(
        ['systemd-analyze', 'verify', '--man=no', '--recursive-errors=no', unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, '')


@pytest.mark.parametrize('name', GENERATE)
def test_the_sample_is_current(name, tmp_path):
    command, *arguments = GENERATE[name]
    command = pathlib.Path(sys.executable).parent / command
    made = tmp_path / 'made'
    done = subprocess.run(
        [command, *arguments, f'--output-file={made}'],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},  # what is installed may be older
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert made.read_text() == (ETC / name).read_text()


@pytest.mark.parametrize('section', ['keystone_authtoken', 'keystone_auth'])
def test_the_agents_sample_has_the_credentials_that_it_needs(section):
    text = (ETC / 'zun/zun-agent.conf.sample').read_text()
    (below,) = [part for part in text.split('\n[') if part.startswith(f'{section}]')]
    for option in ('auth_url', 'username', 'password', 'project_name', 'user_domain_name'):
        assert f'\n#{option} = ' in below
