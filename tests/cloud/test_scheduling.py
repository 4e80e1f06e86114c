"""What is no sandbox does not become one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud import settings
from tests.cloud.cloud import User, Workspace

VM_FLAVOR, PLAIN_IMAGE = 'm1.nano', 'plain'


@pytest.fixture
def sandboxes_only(admin: User) -> Iterator[None]:
    """Take the host of virtual machines out of service, if there is one."""
    other = settings.load()['VM_HOST']
    found = list(admin.compute.services(binary='nova-compute', host=other))
    for service in found:
        admin.compute.disable_service(service)
    yield
    for service in found:
        admin.compute.enable_service(service)


def test_a_machine_finds_no_host_where_there_are_sandboxes_only(
    space: Workspace, sandboxes_only: None
) -> None:
    server = space.server(flavor=VM_FLAVOR, image=PLAIN_IMAGE, networks='none', wait=False)
    space.until_server(server, 'ERROR')
    assert 'No valid host' in str(space.user.compute.get_server(server).fault)


def test_plain_image_with_the_flavor_of_sandboxes_fails_and_says_why(space: Workspace) -> None:
    server = space.server(image=PLAIN_IMAGE, wait=False)
    space.until_server(server, 'ERROR')
    assert space.user.compute.get_server(server).fault
