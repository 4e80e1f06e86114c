"""How the end of a sandbox is judged, and which containers run again."""

import pytest

from tests.unit.virt import fake_docker
from zun_virt import ends, host
from zun_virt.ends import Verdict


def container(**fields):
    defaults = {'id': 'x', 'name': 'x', 'state': 'exited', 'labels': {}}
    return host.Container(**(defaults | fields))


PAUSE = container(exit_code=137, finished_at='2026-11-21T08:01:39.511931Z')


@pytest.mark.parametrize(
    ('exit_code', 'same_boot', 'witnessed', 'expected'),
    [
        (0, True, True, Verdict.SHUTDOWN),
        (0, True, False, Verdict.KILLED),
        (137, True, True, Verdict.KILLED),
        (137, True, False, Verdict.KILLED),
        (1, True, True, Verdict.KILLED),
        (None, True, True, Verdict.KILLED),
        (0, False, True, Verdict.REBOOT),
        (137, False, False, Verdict.REBOOT),
        (None, False, False, Verdict.REBOOT),
    ],
)
def test_judge(exit_code, same_boot, witnessed, expected):
    ended = None if exit_code is None else container(exit_code=exit_code)
    verdict = ends.judge(ended, same_boot=same_boot, witnessed=lambda: witnessed)
    assert verdict is expected


@pytest.mark.parametrize(
    ('exit_code', 'finished_at', 'expected'),
    [
        (137, '2026-11-21T08:01:39.599101256Z', True),
        (137, '2026-11-21T08:01:39.1Z', True),
        (143, '2026-11-21T08:01:40Z', True),
        (137, '2026-11-21T08:01:30.511931Z', False),
        (0, '2026-11-21T08:01:39.6Z', False),
        (137, fake_docker.NEVER, False),
        (137, '', False),
        (137, 'nonsense', False),
    ],
)
def test_died_with(exit_code, finished_at, expected):
    user = container(exit_code=exit_code, finished_at=finished_at)
    assert ends.died_with(user, PAUSE) is expected


@pytest.mark.parametrize('pause_code', [0, 143])
@pytest.mark.parametrize(
    ('exit_code', 'finished_at', 'expected'),
    [
        (0, '2026-11-21T08:01:39.6Z', True),
        (0, '2026-11-21T08:01:38.6Z', True),
        (143, '2026-11-21T08:01:39.6Z', True),
        (0, '2026-11-21T08:01:30Z', False),
        (137, '2026-11-21T08:01:39.6Z', True),
    ],
)
def test_all_are_told_to_end_when_docker_shuts_down(pause_code, exit_code, finished_at, expected):
    pause = container(exit_code=pause_code, finished_at=PAUSE.finished_at)
    user = container(exit_code=exit_code, finished_at=finished_at)
    assert ends.died_with(user, pause) is expected


def test_nobody_died_with_a_sandbox_that_never_ran():
    never = container(state='created', finished_at=fake_docker.NEVER)
    user = container(exit_code=128, finished_at=fake_docker.NEVER)
    assert not ends.died_with(user, never)
