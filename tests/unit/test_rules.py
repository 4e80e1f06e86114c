"""The rules of doc/source/architecture.rst that a machine can hold the code to."""

import ast
import configparser
import importlib.metadata
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted(path for name in ('zun_virt', 'zun_agent') for path in (ROOT / name).rglob('*.py'))


def imports(path):
    """Return the dotted names that a module imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
            found.update(f'{node.module}.{alias.name}' for alias in node.names)
    return found


def importers(package, library):
    def is_library(name):
        return name == library or name.startswith(f'{library}.')

    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob('*.py')
        if any(is_library(name) for name in imports(path))
    }


def test_there_is_code_to_hold():
    assert len(MODULES) > 20


@pytest.mark.parametrize(
    ('package', 'library', 'modules'),
    [
        ('zun_virt', 'docker', {'zun_virt/engine.py'}),
        ('zun_agent', 'docker', {'zun_agent/runtime.py'}),
        ('zun_virt', 'os_vif', {'zun_virt/network.py'}),
        ('zun_virt', 'oslo_privsep', {'zun_virt/privsep/__init__.py'}),
        (
            'zun_virt',
            'pyroute2',
            {'zun_virt/privsep/__init__.py', 'zun_virt/privsep/interfaces.py'},
        ),
        ('zun_agent', 'nova', set()),
        ('zun_agent', 'os_vif', set()),
        ('zun_agent', 'oslo_privsep', set()),
    ],
)
def test_each_outside_library_has_one_room(package, library, modules):
    assert importers(package, library) == modules


def test_the_agent_imports_nothing_of_the_driver_but_the_contract():
    allowed = re.compile(r'zun_virt(\.sandbox(\..*)?)?$')
    for path in (ROOT / 'zun_agent').rglob('*.py'):
        for name in imports(path):
            if name.startswith('zun_virt'):
                assert allowed.match(name), f'{path}: {name}'


def test_the_contract_imports_no_backend():
    for path in (ROOT / 'zun_virt' / 'sandbox').glob('*.py'):
        names = {name.split('.')[0] for name in imports(path)}
        assert not names & {'nova', 'os_vif', 'docker', 'oslo_config'}


def test_the_driver_speaks_nova_and_plain_values():
    source = (ROOT / 'zun_virt' / 'driver.py').read_text()
    code = '\n'.join(line.split('#')[0] for line in source.splitlines())
    assert not re.search(r'\b(docker_?client|api_?client|veth|netlink|iproute)\b', code, re.I)


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 45, node.name


def test_every_package_is_packaged():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    listed = set(config['options']['packages'].split())
    found = {
        '.'.join(path.parent.relative_to(ROOT).parts)
        for path in MODULES
        if path.name == '__init__.py'
    }
    assert listed == (found - {'zun_virt.shim'}) | {'nova.virt.zun_virt'}


def calls(path):
    """Give each call of a module: the name of what is called, and those of its arguments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg for keyword in node.keywords}


def test_every_call_to_something_outside_has_a_time_out():
    """Docker's library takes that of its client for all its calls."""
    waits = re.compile(
        r'(subprocess\.(run|call|check_\w+)|_(http|session)\.request|requests\.[a-z]+|\burlopen'
        r'|\.send_and_get_reply|^_?Client)$'
    )
    modules = set()
    for path in MODULES:
        for name, arguments in calls(path):
            assert not name.endswith('Popen'), f'{path}: {name}'
            if waits.search(name):
                modules.add(path.stem)
                assert 'timeout' in arguments, f'{path}: {name}'
    outside = {'cgroups', 'engine', 'filesystems', 'openstack', 'relay', 'runtime', 'switch'}
    assert modules == outside


def test_another_program_is_run_for_file_systems_and_what_the_switch_forgot_alone():
    runners = {path.stem for path in MODULES if 'subprocess' in imports(path)}
    assert runners == {'filesystems', 'switch'}


def test_the_api_changes_nothing_in_docker():
    """What a request wants is written down; the reconciler, which serves nobody, does it."""
    looks = {'execute', 'inspect', 'logs', 'stats', 'top'}
    serving = {'manager', 'reading', 'view', 'usage', 'admission'}
    asked = set()
    for path in (ROOT / 'zun_agent').rglob('*.py'):
        if path.parent.name in ('api', 'schemas') or path.stem in serving:
            for name, _ in calls(path):
                holder, _, method = name.rpartition('.')
                if holder.endswith('runtime'):
                    asked.add(method)
        elif path.stem != 'cmd':
            assert not {name for name in imports(path) if name.startswith('zun_agent.api')}, path
    assert asked == looks


@pytest.mark.parametrize('package', ['zun_virt', 'zun_agent'])
def test_what_is_imported_is_required(package):
    """The agent is installed where nova may not be; the driver has what nova requires."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    required = config['options']['install_requires'].split('\n')
    given = {'zun-virt'} | _names(line for line in required if not line.startswith('#'))
    if package == 'zun_virt':
        given |= {'nova'} | _names(importlib.metadata.requires('nova'))
    distributions = importlib.metadata.packages_distributions()
    for path in (ROOT / package).rglob('*.py'):
        for name in {name.partition('.')[0] for name in imports(path)} & set(distributions):
            assert _names(distributions[name]) & given, f'{path}: {name}'


def _names(requirements):
    """Return the names of distributions, all in one spelling."""
    found = (re.match(r'[\w.-]+', requirement) for requirement in requirements)
    return {re.sub(r'[._]', '-', name[0]).lower() for name in found if name}
