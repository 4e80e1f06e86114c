"""What is spoken with engines of different ages: a real client, a socket that answers."""

import contextlib
import io

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


@pytest.mark.parametrize(
    'change', [('1.51', '1.24', '1.41', '1.12'), ('1.41', '1.12', '1.52', '1.44')]
)
def test_one_that_is_replaced_is_spoken_to_in_the_version_of_the_next(ask, change):
    before, least, after, least_after = change
    engine, found = ask('now', before, least)
    engine.answers |= {
        'version': {'ApiVersion': after, 'MinAPIVersion': least_after},
        'json': [[]],
        'create': {'Id': 'one'},
    }
    assert found.create('one', {}) == 'one'
    assert found.sandboxes() == []
    asked = [path.partition('?')[0] for path in engine.asked]
    assert asked == [
        '/version',
        f'/v{before}/containers/create',
        '/version',
        f'/v{after}/containers/create',
        f'/v{after}/containers/json',
    ]


def test_what_was_sent_piece_by_piece_is_not_sent_again(ask):
    engine, found = ask('now', '1.51', '1.24')
    engine.answers |= {'version': {'ApiVersion': '1.41'}, 'json': {'Id': 'sha'}, 'load': {}}
    with pytest.raises(host.HostError, match='too new'):
        found.load(io.BytesIO(b'archive'), 'image')
    assert found.load(io.BytesIO(b'archive'), 'image') == 'sha'


def test_one_that_refuses_its_own_version_is_not_asked_for_ever(ask):
    engine, found = ask('odd', '1.41', '1.44')
    with pytest.raises(host.HostError, match='too old'):
        found.sandboxes()
    assert len(engine.asked) == 3


def test_what_a_user_says_is_no_refusal_of_a_version(ask):
    engine, found = ask('now', '1.41', '1.12')
    engine.answers['create'] = 400, 'invalid name: client version 9 is too new'
    with pytest.raises(host.HostError, match='invalid name'):
        found.create('one', {})
    assert [path.partition('?')[0] for path in engine.asked] == [
        '/version',
        '/v1.41/containers/create',
    ]
