import pytest

from tests.unit.agent.fake_cloud import flavor
from zun_agent import errors
from zun_agent.flavors import Ask, choose, flavor_of

FLAVORS = [
    flavor_of(found)
    for found in (
        flavor('vm', 1, 64, sandbox=False),
        flavor('huge', 16, 512, 1),
        flavor('large', 4, 4096, 20),
        flavor('small', 1, 512, 1),
        flavor('medium', 2, 1024, 10),
        flavor('tiny', 1, 128, 1),
    )
]


def chosen(ask, named=None, flavors=FLAVORS):
    return choose(
        flavors,
        ask,
        trait='CUSTOM_ZUN_SANDBOX',
        named=named,
        default_cpu=1.0,
        default_memory=512,
    ).name


@pytest.mark.parametrize(
    ('ask', 'expected'),
    [
        (Ask(), 'small'),  # the defaults size it
        (Ask(memory=64), 'tiny'),
        (Ask(memory=128), 'tiny'),
        (Ask(memory=129), 'small'),
        (Ask(cpu=0.1, memory=10), 'tiny'),
        (Ask(cpu=1.1), 'huge'),  # less memory comes before fewer processors
        (Ask(cpu=1.1, memory=513), 'medium'),
        (Ask(disk=10), 'medium'),
        (Ask(disk=11), 'large'),
        (Ask(cpu=16), 'huge'),
    ],
)
def test_the_smallest_that_holds_what_is_asked(ask, expected):
    assert chosen(ask) == expected


@pytest.mark.parametrize(
    ('named', 'ask', 'expected'),
    [
        ('medium', Ask(), 'medium'),
        ('id-medium', Ask(cpu=2), 'medium'),
        ('tiny', Ask(), 'tiny'),  # the defaults are for those who ask for nothing
    ],
)
def test_the_one_that_is_named(named, ask, expected):
    assert chosen(ask, named) == expected


@pytest.mark.parametrize(
    ('named', 'ask', 'flavors', 'words'),
    [
        (None, Ask(cpu=17), FLAVORS, r'17 cpu, 512 MiB.*tiny \(1 VCPU, 128 MiB, 1 GiB\)'),
        (None, Ask(), [], 'requires the trait CUSTOM_ZUN_SANDBOX'),
        (None, Ask(), FLAVORS[:1], 'requires the trait CUSTOM_ZUN_SANDBOX'),
        ('none', Ask(), FLAVORS, "no flavor 'none'.*tiny"),
        ('vm', Ask(), FLAVORS, 'vm is not for sandboxes.*tiny'),
        ('tiny', Ask(memory=129), FLAVORS, 'tiny .*does not hold 129 MiB'),
        ('small', Ask(cpu=1.5), FLAVORS, 'small .*does not hold 1.5 cpu'),
        ('small', Ask(disk=2), FLAVORS, 'small .*does not hold 2 GiB'),
    ],
)
def test_none_that_will_do(named, ask, flavors, words):
    with pytest.raises(errors.NoSandboxFlavor, match=words):
        chosen(ask, named, flavors)
