"""Where images come from: the registry, Glance, or nowhere."""

from __future__ import annotations

import io
import random
import tarfile
import typing
from collections.abc import Iterator

import docker.errors
import pytest
from zunclient.common.apiclient import exceptions as errors

from tests.cloud import faults, host, settings
from tests.cloud.cloud import User, Workspace
from tests.cloud.waiting import wait_until


def _forget(name: str) -> None:
    """Remove an image from the host, as if it had never been pulled."""
    try:
        host.engine().images.remove(name, force=True)
    except docker.errors.ImageNotFound:
        return


@pytest.fixture(scope='module')
def archive() -> bytes:
    """A Docker archive of the image `alpine`, whose tag is one that it has no right to."""
    image = host.engine().images.pull('alpine', tag='latest')
    image.tag('kubernetes/pause', tag='stolen')
    try:
        return b''.join(
            host.engine()
            .images.get('kubernetes/pause:stolen')
            .save(named='kubernetes/pause:stolen')
        )
    finally:
        host.engine().images.remove('kubernetes/pause:stolen')


@pytest.fixture
def glance_image(demo: User, archive: bytes) -> Iterator[str]:
    """An image of the tenant's own in Glance: its name."""
    image = demo.image.create_image(
        name='tools-of-ours',
        data=io.BytesIO(archive),
        container_format='docker',
        disk_format='raw',
    )
    yield image.name
    demo.image.delete_image(image.id)


def test_image_is_pulled_when_it_is_not_there(space: Workspace, sandbox: str) -> None:
    _forget('busybox:latest')
    one = space.running('busybox', sandbox=sandbox, command=['sleep', '3600'])
    assert space.user.show(one).image == 'busybox'
    assert host.engine().images.get('busybox:latest')


def test_tag_of_the_image(space: Workspace, sandbox: str) -> None:
    one = space.running('alpine:3.20', sandbox=sandbox, command=['sleep', '3600'])
    assert space.user.show(one).image == 'alpine:3.20'


def test_unknown_image_is_named(space: Workspace, sandbox: str) -> None:
    one = space.run('no-such-image', sandbox=sandbox)
    shown = space.user.wait(one, 'Error', timeout=90)
    assert 'no-such-image' in shown.status_reason
    assert shown.task_state is None
    space.user.containers.delete(one)
    space.user.wait(one, 'gone')


def test_unknown_image_with_its_own_sandbox(space: Workspace) -> None:
    one = space.run('no-such-image')
    assert 'no-such-image' in space.user.wait(one, 'Error', timeout=90).status_reason
    space.user.containers.delete(one)
    space.user.wait(one, 'gone')


def test_policy_never(space: Workspace, sandbox: str, admin: User) -> None:
    _forget('busybox:latest')
    with_admin = space.user.request(
        'POST',
        '/v1/containers?run=true',
        json={
            'image': 'busybox',
            'image_pull_policy': 'never',
            'hints': {'sandbox': sandbox},
        },
    )
    assert with_admin.status_code == 202, with_admin.text
    one = space.adopt(with_admin.json()['uuid'])
    assert 'busybox' in space.user.wait(one, 'Error').status_reason
    with pytest.raises(docker.errors.ImageNotFound):
        host.engine().images.get('busybox:latest')


def test_policy_always_notices_a_new_image_of_the_name(space: Workspace, sandbox: str) -> None:
    host.engine().images.pull('alpine', tag='latest').tag('busybox', tag='latest')
    stale = host.engine().images.get('busybox:latest').id
    layer = host.engine().containers.create('alpine', ['true'])
    try:
        layer.commit('busybox', tag='latest', changes='LABEL altered=1')
    finally:
        layer.remove()
    altered = host.engine().images.get('busybox:latest').id
    assert altered != stale
    try:
        one = space.running(
            'busybox', sandbox=sandbox, command=['sleep', '3600'], image_pull_policy='ifnotpresent'
        )
        assert host.container(one).attrs['Image'] == altered
        two = space.running(
            'busybox', sandbox=sandbox, command=['sleep', '3600'], image_pull_policy='always'
        )
        assert host.container(two).attrs['Image'] != altered
    finally:
        space.remove([one, two])
        host.engine().images.remove(altered, force=True)


def test_image_from_glance(space: Workspace, sandbox: str, glance_image: str) -> None:
    one = space.run(
        glance_image, sandbox=sandbox, image_driver='glance', command=['echo', 'from glance']
    )
    shown = space.user.wait(one, 'Stopped')
    assert space.user.logs(one) == 'from glance\n'
    assert (shown.image, shown.image_driver) == (glance_image, 'glance')
    with pytest.raises(docker.errors.ImageNotFound):  # the archive's tag is not believed
        host.engine().images.get('kubernetes/pause:stolen')


def test_glance_image_of_another_project(
    space: Workspace, sandbox: str, other: User, archive: bytes
) -> None:
    image = other.image.create_image(
        name='private-tools',
        data=io.BytesIO(archive),
        container_format='docker',
        disk_format='raw',
    )
    try:
        with pytest.raises(errors.BadRequest, match=image.id):
            space.run(image.id, sandbox=sandbox, image_driver='glance', command=['true'])
    finally:
        other.image.delete_image(image.id)


def _hostile_archives() -> dict[str, bytes]:
    def archive(**files: bytes) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode='w') as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name.replace('_', '.'))
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return stream.getvalue()

    return {
        'random bytes': random.Random(1).randbytes(4096),
        'no images in it': archive(manifest_json=b'[]'),
        'config outside of it': archive(
            manifest_json=b'[{"Config":"../../../etc/passwd","RepoTags":null,"Layers":[]}]'
        ),
    }


@pytest.mark.parametrize('case', ['random bytes', 'no images in it', 'config outside of it'])
def test_glance_image_that_is_no_docker_archive(space: Workspace, sandbox: str, case: str) -> None:
    image = space.user.image.create_image(
        name=space.name('hostile'),
        data=io.BytesIO(_hostile_archives()[case]),
        container_format='docker',
        disk_format='raw',
    )
    try:
        one = space.run(image.name, sandbox=sandbox, image_driver='glance', command=['true'])
        assert space.user.wait(one, 'Error').status_reason
    finally:
        space.user.image.delete_image(image.id)


def test_server_of_an_image_that_is_no_sandbox_image(space: Workspace) -> None:
    """A tenant's own archive under the sandbox's properties fails cleanly."""
    image = space.user.image.create_image(
        name=space.name('hostile'),
        data=io.BytesIO(_hostile_archives()['no images in it']),
        container_format='docker',
        disk_format='raw',
        img_hv_type='docker',
        **{'trait:CUSTOM_ZUN_SANDBOX': 'required'},
    )
    try:
        server = space.server(image=image.name, wait=False)
        space.until_server(server, 'ERROR')
        assert space.user.compute.get_server(server).fault
        space.delete_server(server)
        space._servers.remove(server)
    finally:
        space.user.image.delete_image(image.id)


@pytest.fixture
def aggregate(space: Workspace) -> typing.Any:
    """An aggregate of the first host alone."""
    compute = space.admin.compute
    made = compute.create_aggregate(name=space.name('aggregate'))
    space.finally_do(compute.delete_aggregate, made.id)
    compute.add_host_to_aggregate(made.id, settings.load().host)
    space.finally_do(compute.remove_host_from_aggregate, made.id, settings.load().host)
    return made


@pytest.fixture
def images_age_soon(admin: User) -> Iterator[None]:
    """Have nova-compute look every second for images that were not in use for five."""
    options = 'manager_interval = 1\nremove_unused_original_minimum_age_seconds = 5'
    with faults.compute_with(admin, f'[image_cache]\n{options}'):
        yield


@pytest.mark.alone
def test_an_image_is_cached_before_it_is_needed_and_goes_when_it_is_not(
    space: Workspace,
    sandbox: str,
    archive: bytes,
    aggregate: typing.Any,
    images_age_soon: None,
) -> None:
    image = space.user.image.create_image(
        name=space.name('cached'),
        data=io.BytesIO(archive),
        container_format='docker',
        disk_format='raw',
        visibility='private',
        img_hv_type='docker',
        **{'trait:CUSTOM_ZUN_SANDBOX': 'required'},
    )
    space.finally_do(space.user.image.delete_image, image.id)

    def has(image_id: str) -> bool:
        return any(image_id in tag for tag in host.image_tags())

    space.admin.compute.aggregate_precache_images(aggregate, [image.id])
    wait_until('cached', lambda: has(image.id), timeout=30)
    wait_until('gone', lambda: not has(image.id), timeout=30)
    assert has(space.user.compute.get_server(sandbox).image.id), 'one went that is in use'
