"""What is spoken with engines of different ages: a real client, a socket that answers."""

import contextlib

import pytest

from tests.unit.engine import serving
from zun_virt import host

INFO = {
    'NCPU': 2,
    'MemTotal': 8 << 30,
    'DockerRootDir': '/',
    'Architecture': 'x86_64',
    'CgroupDriver': 'cgroupfs',
    'Driver': 'overlay2',
    'LiveRestoreEnabled': True,
    'SwapLimit': True,
}


@pytest.fixture
def ask(tmp_path):
    """Return a function that connects to an engine of some version."""
    with contextlib.ExitStack() as stack:

        def connect(version, api, least):
            answers = {
                'version': {'Version': version, 'ApiVersion': api, 'MinAPIVersion': least},
                'info': {**INFO, 'ServerVersion': version},
            }
            engine = stack.enter_context(serving(tmp_path / f'{version}.sock', answers))
            found = host.Host(host.connect(f'unix://{engine.server_address}', 5), 'host1')
            stack.callback(found.close)
            return engine, found

        yield connect


@pytest.mark.parametrize(
    ('version', 'api', 'least', 'number'),
    [
        ('20.10.24+dfsg1', '1.41', '1.12', 20_010_024),
        ('23.0.6', '1.42', '1.12', 23_000_006),
        ('24.0.9', '1.43', '1.12', 24_000_009),
        ('26.1.5', '1.45', '1.24', 26_001_005),
        ('28.5.2', '1.51', '1.24', 28_005_002),
        ('29.0.0-rc.2', '1.52', '1.44', 29_000_000),
    ],
)
def test_each_is_spoken_to_in_its_own_version(ask, version, api, least, number):
    engine, found = ask(version, api, least)
    assert found.check().version == number
    assert engine.asked == ['/version', f'/v{api}/info']


def test_one_that_is_too_old_is_refused(ask):
    _engine, found = ask('18.09.1', '1.39', '1.12')
    with pytest.raises(host.HostError, match=r'1\.39 of the engine is too old'):
        found.check()
