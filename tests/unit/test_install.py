"""Installed in either way, the project gives nova a compute driver of its name."""

import configparser
import fnmatch
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

pytest.importorskip('nova', reason='it is nova that loads the driver')
pytest.importorskip('pip', reason='nothing is installed without it')

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ('zun_virt', 'zun_agent', 'setup.cfg', 'pyproject.toml', 'LICENSE', 'README.rst')
LOAD = """
import inspect, sys
import nova.conf
nova.conf.CONF([], project='nova', default_config_files=[])
from nova.virt import driver
loaded = driver.load_compute_driver(None, 'zun_virt.ZunDriver')
assert isinstance(loaded, driver.ComputeDriver)
print(inspect.getfile(type(loaded)), inspect.getfile(sys.modules['nova.virt.zun_virt']))
"""


def linked(source, target, *, but):
    """Make a directory with links to what is in another, but for some names."""
    target.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if not any(fnmatch.fnmatch(entry.name, name) for name in but):
            (target / entry.name).symlink_to(entry)


@pytest.fixture
def python(tmp_path):
    """A Python that has what this one has, but for the project itself."""
    home = tmp_path / 'venv'
    venv.create(home, symlinks=True)
    ours = pathlib.Path(sysconfig.get_path('purelib'))
    theirs = home / ours.relative_to(sys.prefix)
    linked(ours, theirs, but=('nova', 'zun_*', '__editable__*zun*'))
    # pip does not write into nova's own directory, where the driver's module goes
    linked(ours / 'nova', theirs / 'nova', but=('virt',))
    linked(ours / 'nova/virt', theirs / 'nova/virt', but=('zun_virt',))
    return home / 'bin/python'


@pytest.fixture
def tree(tmp_path):
    """The source tree as it is cloned: setuptools writes into what it installs from."""
    copy = tmp_path / 'tree'
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, copy)
    return copy


def run(*command):
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd='/', env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize('options', [(), ('--editable',)], ids=['install', 'editable'])
def test_nova_loads_the_driver(python, tree, options):
    run(python, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation',
        '--no-index', *options, tree)  # fmt: skip
    found, shim = run(python, '-c', LOAD).split()
    expected = tree if options else python.parents[1]
    assert pathlib.Path(found).is_relative_to(expected), found
    assert pathlib.Path(shim).is_relative_to(expected), shim
    config = configparser.ConfigParser()
    config.read(tree / 'setup.cfg')
    assert run(python.parent / 'zun-agent', '--version').strip() == config['metadata']['version']
