"""The thread that runs the driver's own passes."""

import threading

import pytest

from zun_virt import periodic


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_pass_runs_when_it_is_due_and_not_before(clock):
    passes, ran = periodic.Passes(clock), []
    passes.add('often', lambda: ran.append('often'), 10)
    passes.add('rarely', lambda: ran.append('rarely'), 60, first=5)
    assert passes.run_due() == 5
    clock.now += 5
    assert passes.run_due() == 5
    clock.now += 5
    assert passes.run_due() == 10
    assert ran == ['rarely', 'often']


def test_a_pass_of_no_interval_never_runs(clock):
    passes = periodic.Passes(clock)
    passes.add('off', lambda: pytest.fail('it ran'), 0)
    clock.now += 1000
    assert passes.run_due() is None


def test_one_that_fails_disturbs_no_other_and_runs_again(clock):
    passes, ran = periodic.Passes(clock), []

    def fail():
        ran.append('fails')
        raise ValueError('it is broken')

    passes.add('fails', fail, 10)
    passes.add('works', lambda: ran.append('works'), 10)
    for _ in range(2):
        clock.now += 10
        passes.run_due()
    assert ran == ['fails', 'works'] * 2


def test_it_can_be_woken_and_ends():
    passes, ran = periodic.Passes(), threading.Event()
    passes.add('long', ran.set, 3600)
    passes.start()
    passes.wake('long')
    assert ran.wait(5)
    passes.stop()
    assert not passes._thread.is_alive()


def test_it_runs_again_when_woken_in_the_middle(clock):
    passes, ran = periodic.Passes(clock), []

    def act():
        ran.append(clock.now)
        if len(ran) == 1:
            clock.now += 1
            passes.wake('one')

    passes.add('one', act, 60, first=0)
    assert passes.run_due() == 0
    assert passes.run_due() == 60
    assert len(ran) == 2
