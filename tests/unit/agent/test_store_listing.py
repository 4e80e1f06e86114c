"""Containers as the store lists them: pages, filters, and what cannot be listed."""

import pytest

from tests.unit.agent.stored import container
from zun_agent import errors
from zun_agent.models import Status


@pytest.fixture
def many(store):
    for number in range(7):
        store.add_container(
            container(
                name=f'c{number % 3}',
                memory=[None, 64, 128][number % 3],
                status=Status.RUNNING if number % 2 else Status.STOPPED,
                auto_remove=number == 4,
            )
        )
    store.add_container(container(project_id='p2', name='c9'))
    return store


@pytest.mark.parametrize('sort_dir', ['asc', 'desc'])
@pytest.mark.parametrize('sort_key', ['id', 'name', 'memory', 'created_at', 'host', 'status'])
def test_pages_hold_each_container_once(many, sort_key, sort_dir):
    found, marker = [], None
    while page := many.page('p1', limit=2, marker=marker, sort_key=sort_key, sort_dir=sort_dir):
        assert len(page) <= 2
        found += page
        marker = page[-1].uuid
    assert [c.uuid for c in found] == [
        c.uuid for c in many.page('p1', sort_key=sort_key, sort_dir=sort_dir)
    ]
    assert len({c.uuid for c in found}) == 7
    values = [v for v in (getattr(c, sort_key) for c in found) if v is not None]
    assert values == sorted(values, reverse=sort_dir == 'desc')


@pytest.mark.parametrize(
    ('filters', 'expected'),
    [
        ({}, 7),
        ({'name': 'c0'}, 3),
        ({'name': 'C0'}, 0),
        ({'name': 'c'}, 0),
        ({'status': 'Running'}, 3),
        ({'memory': '64'}, 2),
        ({'memory': '64M', 'status': 'Running'}, 1),
        ({'auto_remove': 'True'}, 1),
        ({'auto_remove': False}, 6),
        ({'project_id': 'p2'}, 0),
        ({'host': None}, 7),
    ],
)
def test_filters(many, filters, expected):
    assert len(many.page('p1', filters=filters)) == expected


def test_every_project_is_listed_when_asked(many):
    assert len(many.page(None)) == 8
    assert len(many.page(None, filters={'project_id': 'p2'})) == 1


@pytest.mark.parametrize(
    'query',
    [
        {'marker': 'unknown'},
        {'sort_key': 'environment'},
        {'sort_dir': 'up'},
        {'filters': {'environment': 'x'}},
        {'filters': {'memory': 'much'}},
        {'filters': {'auto_remove': 'perhaps'}},
    ],
)
def test_what_cannot_be_listed_is_refused(many, query):
    with pytest.raises(errors.Invalid):
        many.page('p1', **query)


def test_anothers_container_is_no_marker(many):
    (other,) = many.page('p2')
    with pytest.raises(errors.Invalid):
        many.page('p1', marker=other.uuid)
