"""Where the services of the cloud are, what they send, and how long their answers are kept."""

import threading

import pytest

from zun_agent import errors
from zun_agent.openstack import Cache, OpenStack, versioned


@pytest.mark.parametrize(
    ('endpoint', 'expected'),
    [
        ('http://h:9292', 'http://h:9292/v2'),
        ('http://h/image/', 'http://h/image/v2'),
        ('http://h:9292/v2', 'http://h:9292/v2'),
        ('http://h/compute/v2.1', 'http://h/compute/v2.1'),
        ('http://h:8774/v2.1/0123abc', 'http://h:8774/v2.1/0123abc'),
    ],
)
def test_endpoints_with_and_without_a_version(endpoint, expected):
    assert versioned(endpoint, 'v2') == expected


def test_a_download_comes_in_pieces(cloud):
    client = OpenStack(cloud.conf()).as_user(cloud.context(), 'image')
    data = b''.join(client.download(f'/images/{cloud.images[0]["id"]}'))
    assert cloud.images[0]['id'].encode() in data
    with pytest.raises(errors.NotFound):
        list(client.download('/images/unknown'))


def test_the_cache_asks_once_for_many_threads():
    cache, asked, release = Cache(10), [], threading.Event()

    def ask():
        asked.append(1)
        release.wait(5)
        return 'answer'

    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(cache.get(('k', 'p'), ask)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(5)
    assert (answers, asked) == (['answer'] * 5, [1])


def test_the_cache_forgets_in_time():
    clock = [100.0]
    cache, asked = Cache(10, lambda: clock[0]), []
    for seconds in (0, 9, 2, 9):
        clock[0] += seconds
        cache.get(('k', 'p'), lambda: asked.append(1))
    assert len(asked) == 2
    cache.forget('p')
    cache.get(('k', 'p'), lambda: asked.append(1))
    assert len(asked) == 3


def test_the_cache_keeps_no_failure():
    cache, asked = Cache(10), []

    def ask():
        asked.append(1)
        if len(asked) == 1:
            raise errors.NotFound('not yet')
        return 'there'

    with pytest.raises(errors.NotFound):
        cache.get(('k', 'p'), ask)
    assert cache.get(('k', 'p'), ask) == 'there'
