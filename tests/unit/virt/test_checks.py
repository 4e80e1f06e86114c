"""What is told of a host on which sandboxes are to be."""

import dataclasses
import os

import pytest

from tests.unit.virt.test_resources import FACTS
from zun_virt import checks, pause
from zun_virt.checks import Level

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 254:1 / /var/lib rw,relatime shared:2 - xfs /dev/vdb rw,attr2,inode64,{quota}
31 22 254:2 / /var/lib/docker2 rw - tmpfs tmpfs rw,prjquota
"""


def facts(**changes):
    return dataclasses.replace(FACTS, **changes)


@pytest.mark.parametrize(
    ('changes', 'level', 'advice'),
    [
        ({'version': 19_003_015, 'version_text': '19.03.15'}, Level.FAILURE, '20.10'),
        ({'version': 20_010_024}, Level.FINE, ''),
    ],
)
def test_engine(changes, level, advice):
    found = checks.engine(facts(**changes))
    assert found.level == level
    assert advice in found.text


def test_live_restore():
    assert checks.live_restore(facts()).level is Level.FINE
    found = checks.live_restore(facts(live_restore=False))
    assert found.level is Level.WARNING
    assert '"live-restore": true' in found.text


def test_swap():
    assert checks.swap(facts()).level is Level.FINE
    assert 'swapaccount=1' in checks.swap(facts(swap_limit=False)).text


@pytest.mark.parametrize(
    ('changes', 'quota', 'reason'),
    [
        ({'backing': 'xfs'}, 'prjquota', None),
        ({'backing': 'xfs'}, 'noquota', 'without the option pquota'),
        ({'backing': 'extfs'}, 'prjquota', 'extfs, which has no quota'),
        ({'storage_driver': 'btrfs', 'backing': ''}, 'noquota', None),
        ({'storage_driver': 'vfs', 'backing': 'xfs'}, 'prjquota', 'storage driver is vfs'),
    ],
)
def test_disk_quota(changes, quota, reason):
    host = facts(**{'data_root': '/var/lib/docker', **changes})
    found = checks.no_disk_quota(host, MOUNTS.format(quota=quota))
    assert (found is None) == (reason is None)
    assert (reason or '') in (found or '')
    statement = checks.storage(host, MOUNTS.format(quota=quota))
    assert statement.level is (Level.WARNING if reason else Level.FINE)
    assert ('pquota' in statement.text) == (reason is not None)


def test_disk_io(monkeypatch):
    monkeypatch.setattr(checks.resources, 'disk_of', lambda path: '8:0')
    assert checks.disk_io(facts(cgroup_version=2)).level is Level.FINE
    assert 'cgroup v1' in checks.disk_io(facts(cgroup_version=1)).text
    monkeypatch.setattr(checks.resources, 'disk_of', lambda path: None)
    assert 'no disk' in checks.disk_io(facts(cgroup_version=2)).text


@pytest.mark.parametrize('version', [1, 2])
def test_controllers(tmp_path, version):
    host = facts(cgroup_version=version)
    for name in ('cpu,cpuacct', 'cpuset', 'pids'):
        (tmp_path / name).mkdir()
    (tmp_path / 'cgroup.controllers').write_text('cpu cpuset pids\n')
    found = checks.controllers(host, str(tmp_path))
    assert found.level is Level.FAILURE
    assert 'no controllers memory.' in found.text
    (tmp_path / 'memory').mkdir()
    (tmp_path / 'cgroup.controllers').write_text('cpu cpuset memory pids io\n')
    assert checks.controllers(host, str(tmp_path)).level is Level.FINE


@pytest.mark.parametrize(
    ('mode', 'level', 'text'),
    [
        (0o2775, Level.FINE, ''),
        (0o2770, Level.FINE, ''),
        (0o775, Level.FAILURE, 'set-group-id'),
        (0o2755, Level.FAILURE, 'install -d'),
        (0o2777, Level.FAILURE, 'anybody'),
    ],
)
def test_state_directory(tmp_path, mode, level, text):
    place = tmp_path / 'zun'
    place.mkdir()
    place.chmod(mode)
    found = checks.state_directory(str(place))
    assert found.level is level
    assert text in found.text
    assert f'{mode:04o}' in found.text


def test_a_state_directory_that_is_not_there(tmp_path):
    found = checks.state_directory(str(tmp_path / 'none'))
    assert found.level is Level.FAILURE
    assert f"install -d -o <nova-compute's user> -g zun -m 2775 {tmp_path}/none" in found.text


def test_what_matters_is_logged_at_the_start(caplog):
    checks.at_start(facts(live_restore=False, backing='extfs', data_root=os.getcwd()))
    assert 'live-restore is off' in caplog.text
    assert 'not bounded by the size of their disk' in caplog.text
    assert 'no swap beyond' not in caplog.text


@pytest.mark.parametrize(
    ('bounding', 'score'), [('000001fffeffffff', 0), ('000001ffffffffff', -998)]
)
def test_the_pause_process_is_the_last_that_the_kernel_ends(bounding, score):
    status = f'Name:\tinit\nCapEff:\tffffffffffffffff\nCapBnd:\t{bounding}\n'
    assert pause.oom_score(status) == score


def test_where_the_first_process_is_hidden_it_gets_no_score(monkeypatch, tmp_path):
    monkeypatch.setattr(pause, '_FIRST_PROCESS', tmp_path / 'status')
    assert pause.oom_score() == 0
