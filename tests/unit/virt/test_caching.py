"""Images that are fetched before they are needed, and go when they are needed no more."""

import time

import pytest
from nova import conf, exception

from tests.unit.virt import fake_docker
from tests.unit.virt.conftest import make_image, make_instance
from zun_virt import sandbox

CONF = conf.CONF
DAY = 24 * 3600


def tags(machine):
    return [name for name in machine.docker.images_ if name.startswith(sandbox.SANDBOX_IMAGES)]


@pytest.fixture
def now(zun, monkeypatch):
    """The shelf's clock, to turn."""
    found = [time.time()]
    monkeypatch.setattr(zun._shelf, '_clock', lambda: found[0])
    return found


def test_an_image_is_fetched_once(zun, machine):
    assert zun.cache_image(None, make_image().id) is True
    assert zun.cache_image(None, make_image().id) is False
    assert len(machine.glance.downloads) == len(tags(machine)) == 1


def test_one_that_is_not_for_sandboxes_is_refused(zun, machine):
    machine.glance.properties = {}
    with pytest.raises(exception.ImageUnacceptable):
        zun.cache_image(None, make_image().id)
    assert machine.glance.downloads == []


def test_one_that_nobody_used_for_a_day_is_removed(zun, machine, now):
    zun.cache_image(None, make_image().id)
    zun._age_images()
    now[0] += DAY - 60
    zun._age_images()
    assert tags(machine)
    now[0] += 120
    zun._age_images()
    assert tags(machine) == []
    assert list((machine.root / 'state' / 'images').iterdir()) == []


def test_one_that_a_server_uses_is_kept_and_its_day_begins_with_the_last_use(zun, machine, now):
    zun.cache_image(None, make_image().id)
    server = make_instance()
    machine.servers.add(server)
    server.image_ref = make_image().id
    for _ in range(3):
        zun._age_images()
        now[0] += DAY + 60
    assert tags(machine)


def test_one_that_a_container_uses_is_kept(zun, machine, now):
    zun.spawn(None, make_instance(), make_image(), [], None, {}, network_info=[])
    zun._age_images()
    now[0] += 2 * DAY
    zun._age_images()
    assert len(tags(machine)) == 1


def test_none_is_removed_where_the_operator_says_so(zun, machine, now):
    zun.cache_image(None, make_image().id)
    CONF.set_override('remove_unused_base_images', False, group='image_cache')
    try:
        zun._age_images()
        now[0] += 2 * DAY
        zun._age_images()
    finally:
        CONF.clear_override('remove_unused_base_images', group='image_cache')
    assert tags(machine)


def test_docker_that_does_not_answer_is_asked_again(zun, machine, now):
    zun.cache_image(None, make_image().id)
    machine.docker.fail('images', fake_docker.api_error(500, 'busy'))
    zun._age_images()
    assert tags(machine)
