"""Sandboxes and virtual machines in one cloud, each on the hosts of its kind."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from tests.cloud import settings
from tests.cloud.cloud import SMALL, User, Workspace
from tests.cloud.waiting import wait_until

VM_FLAVOR, PLAIN_IMAGE = 'm1.nano', 'plain'


def _host(admin: User, server: str) -> str | None:
    return admin.compute.get_server(server).compute_host


def _image(user: User, name: str, **properties: str) -> str:
    made = user.image.create_image(
        name=name,
        data=io.BytesIO(bytes(1 << 16)),
        container_format='bare',
        disk_format='raw',
        **properties,
    )
    return str(made.id)


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


@pytest.fixture(scope='class')
def vm_host(module_leaves_nothing: None, admin: User) -> Iterator[str]:
    """A second compute host, of virtual machines: its name."""
    settings.allinone('vm-host', 'up')
    name = settings.load()['VM_HOST']

    def up() -> bool:
        services = admin.compute.services(binary='nova-compute', host=name)
        return [service.state for service in services] == ['up']

    wait_until(f'{name} up', up, timeout=60)
    yield name
    settings.allinone('vm-host', 'down')
    assert not list(admin.compute.services(host=name))


@pytest.mark.usefixtures('vm_host')
class TestWithAHostOfVirtualMachines:
    def test_a_machine_lands_on_it(self, space: Workspace, vm_host: str) -> None:
        for _ in range(2):
            server = space.server(flavor=VM_FLAVOR, image=PLAIN_IMAGE, networks='none')
            assert _host(space.admin, server) == vm_host

    def test_a_sandbox_does_not(self, space: Workspace) -> None:
        for _ in range(2):
            server = space.server()
            assert _host(space.admin, server) == settings.load().host

    def test_a_container_does_not(self, space: Workspace) -> None:
        one = space.running()
        assert _host(space.admin, one) == settings.load().host

    def test_the_sandbox_image_does_not_even_with_the_flavor_of_a_machine(
        self, space: Workspace
    ) -> None:
        server = space.server(flavor=VM_FLAVOR, wait=False)
        space.admin.compute.wait_for_server(
            space.admin.compute.get_server(server), wait=90, failures=['ERROR']
        )
        assert _host(space.admin, server) == settings.load().host

    @pytest.mark.parametrize('kind', ['kvm', 'qemu'])
    def test_an_image_of_another_hypervisor_lands_on_neither(
        self, space: Workspace, kind: str
    ) -> None:
        image = _image(space.user, space.name('vm'), img_hv_type=kind)
        try:
            for flavor in (VM_FLAVOR, SMALL):
                server = space.server(flavor=flavor, image=image, networks='none', wait=False)
                space.until_server(server, 'ERROR')
                assert 'No valid host' in str(space.user.compute.get_server(server).fault)
        finally:
            space.user.image.delete_image(image)

    def test_plain_image_with_the_flavor_of_sandboxes_fails_and_says_why(
        self, space: Workspace
    ) -> None:
        server = space.server(image=PLAIN_IMAGE, wait=False)
        space.until_server(server, 'ERROR')
        assert space.user.compute.get_server(server).fault

    def test_a_machine_is_no_sandbox(self, space: Workspace) -> None:
        server = space.server(flavor=VM_FLAVOR, image=PLAIN_IMAGE, networks='none')
        answer = space.user.request(
            'POST', '/v1/containers', json={'image': 'alpine', 'hints': {'sandbox': server}}
        )
        assert answer.status_code == 400, answer.text
