"""What the crash test asks for, and what it counts."""

import collections

import pytest

from tests.cloud import chance

SEEDS = range(20)
VICTIMS = [chance.COMPUTE, 'one', 'other']
BESIDE = {'start', 'reboot', 'detach', 'detach volume', 'container'}


def rounds(seed, number=40):
    plan = chance.Plan(seed, VICTIMS)
    return [plan.round() for _ in range(number)]


def test_a_seed_always_gives_the_same():
    assert rounds(7) == rounds(7)
    assert rounds(7) != rounds(8)


def test_two_hundred_are_asked_for_within_forty_rounds():
    for seed in SEEDS:
        asked = collections.Counter(step.kind for one in rounds(seed) for step in one.steps)
        assert sum(asked[kind] for kind in chance.COUNTED) > 210
        assert min(asked[kind] for kind in chance.COUNTED) > 20
        assert set(asked) - set(chance.COUNTED) == BESIDE
        assert {one.victim for one in rounds(seed)} == set(VICTIMS)


def test_only_what_makes_sense_is_asked_for():
    for seed in SEEDS:
        servers: dict[int, dict[str, object]] = {}
        for one in rounds(seed):
            assert 0 < len(one.steps) <= chance.AT_ONCE
            for step in one.steps:
                follow(servers, step)


def follow(servers, step):
    """Do to plain facts what a step asks for, which must be possible."""
    volumes = {server['volume'] for server in servers.values()} - {None}
    if step.kind == 'create':
        assert step.place not in servers
        servers[step.place] = {'runs': True, 'ports': 1, 'volume': None, 'container': False}
        return
    server = servers[step.place]
    match step.kind:
        case 'stop' | 'reboot':
            assert server['runs']
            server['runs'] = step.kind == 'reboot'
        case 'start':
            assert not server['runs']
            server['runs'] = True
        case 'attach' | 'detach':
            server['ports'] += 1 if step.kind == 'attach' else -1
            assert 1 <= server['ports'] <= chance.PORTS
        case 'attach volume':
            assert server['volume'] is None
            assert step.volume in set(range(chance.VOLUMES)) - volumes
            server['volume'] = step.volume
        case 'detach volume':
            assert server['volume'] == step.volume is not None
            server['volume'] = None
        case 'container':
            assert server['runs'] and not server['container']
            server['container'] = True
        case 'delete':
            del servers[step.place]


def test_a_server_is_asked_for_nothing_beside_its_beginning_or_after_its_end():
    for seed in SEEDS:
        for one in rounds(seed):
            for place in range(chance.PLACES):
                kinds = [step.kind for step in one.steps if step.place == place]
                assert len(kinds) == len(set(kinds))
                assert 'create' not in kinds or kinds == ['create']
                assert 'delete' not in kinds[:-1]
                assert 'delete' not in kinds or not {'attach', 'detach'} & set(kinds)
                assert len({'stop', 'start', 'reboot'} & set(kinds)) < 2


def test_the_api_is_not_kept_from_answering_by_a_dead_compute():
    at_once = collections.defaultdict(set)
    for seed in SEEDS:
        for one in rounds(seed):
            waited_for = [step for step in one.steps if step.kind in chance.WAITED_FOR]
            at_once[one.victim == chance.COMPUTE].add(len(waited_for))
    assert max(at_once[True]) == 1
    assert max(at_once[False]) > 2


@pytest.mark.parametrize(
    ('asked', 'occupied', 'left'),
    [
        (['create'], (), ['create']),
        (['create'], (0,), []),
        (['stop', 'attach', 'delete'], (0,), ['stop', 'attach', 'delete']),
        (['stop', 'attach', 'delete'], (1,), ['create']),
        (['delete'], (), []),
    ],
)
def test_what_the_plan_took_for_granted_and_was_refused(asked, occupied, left):
    steps = [chance.Step(kind, 0) for kind in asked]
    assert chance.possible(steps, occupied) == [chance.Step(kind, 0) for kind in left]


def test_only_what_was_accepted_counts():
    tally = chance.Tally()
    tally.accepted.update(create=2, stop=3, start=5, delete=1, container=7)
    tally.accepted['attach volume'] += 4
    tally.refused.update(create=9)
    tally.seen['kills of one'] += 1
    assert tally.counted == 10
    said = tally.lines()
    assert said[0] == '10 creates, stops, attaches and deletes were accepted:'
    assert '12 others were accepted:' in said
    assert said.index('    9 create') > said.index('9 were refused:')
    assert said[-1] == '    1 kills of one'
