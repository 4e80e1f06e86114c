"""Fills the cloud: users and catalogue (identity), then networks, flavors and images (cloud).

Safe to run again: what is there is kept. Settings come from the environment that tools/allinone
prepares.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openstack

TRAIT = 'CUSTOM_ZUN_SANDBOX'
IMAGE = 'kubernetes/pause'
PROJECTS = ('demo', 'other')
# name: vcpus, MB of memory, GB of disk
SANDBOX_FLAVORS = {
    'sandbox.tiny': (1, 128, 1),
    'sandbox.small': (1, 512, 1),
    'sandbox.medium': (2, 1024, 2),
}
AGENTS = {'Open vSwitch agent', 'DHCP agent', 'L3 agent', 'Metadata agent'}
PATIENCE = 120  # seconds for what the services do by themselves after their start


def setting(name: str) -> str:
    """The setting of tools/cloud/settings.sh with that name."""
    return os.environ[f'CLOUD_{name}']


def endpoints() -> dict[str, tuple[str, str]]:
    """Type and address of each service, by the service's name."""

    def at(port: str, path: str = '') -> str:
        return f'http://{setting("IP")}:{setting(port)}{path}'

    return {
        'placement': ('placement', at('PLACEMENT_PORT')),
        'glance': ('image', at('GLANCE_PORT')),
        'neutron': ('network', at('NEUTRON_PORT')),
        'nova': ('compute', at('NOVA_PORT', '/v2.1')),
        'cinder': ('block-storage', at('CINDER_PORT', '/v3')),
        'zun': ('container', at('AGENT_PORT', '/v1')),
    }


def seed_identity(cloud: Any) -> None:
    """Services, endpoints, projects and users."""
    keystone = cloud.identity
    services = {service.name: service for service in keystone.services()}
    present = {(endpoint.service_id, endpoint.interface) for endpoint in keystone.endpoints()}
    for name, (kind, url) in endpoints().items():
        service = services.get(name) or keystone.create_service(name=name, type=kind)
        for interface in ('public', 'internal', 'admin'):
            if (service.id, interface) not in present:
                keystone.create_endpoint(
                    service_id=service.id,
                    interface=interface,
                    url=url,
                    region_id=setting('REGION'),
                )
    seed_accounts(keystone, list(endpoints()))


def seed_accounts(keystone: Any, service_users: list[str]) -> None:
    """A user for each service in project `service`, and the tenants."""
    roles = {role.name: role for role in keystone.roles()}
    projects = {project.name: project for project in keystone.projects()}
    users = {user.name: user for user in keystone.users()}

    def account(name: str, project_name: str, *role_names: str) -> None:
        project = projects.get(project_name) or keystone.create_project(
            name=project_name, domain_id='default'
        )
        projects[project_name] = project
        if name not in users:
            users[name] = keystone.create_user(
                name=name,
                domain_id='default',
                password=setting('PASSWORD'),
                default_project_id=project.id,
            )
        for role in role_names:
            keystone.assign_project_role_to_user(project, users[name], roles[role])

    for name in service_users:
        account(name, 'service', 'admin', 'service')
    for name in PROJECTS:
        account(name, name, 'member', 'reader')
        account('admin', name, 'admin')


def wait(what: str, condition: Callable[[], Any]) -> Any:
    """The first true answer of condition; services may still be starting."""
    deadline = time.monotonic() + PATIENCE
    problem: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except openstack.exceptions.SDKException as exc:
            problem = exc
        time.sleep(0.3)
    raise SystemExit(f'{what}: not there after {PATIENCE} s ({problem})')


def seed_networks(cloud: Any) -> None:
    """The network to the outside, and one network of the tenant behind a router."""
    neutron = cloud.network
    wait(
        'network agents',
        lambda: {agent.agent_type for agent in neutron.agents() if agent.is_alive} >= AGENTS,
    )
    public = neutron.find_network('public') or neutron.create_network(
        name='public',
        is_router_external=True,
        provider_network_type='flat',
        provider_physical_network='public',
    )
    if not neutron.find_subnet('public-subnet'):
        prefix = setting('PUBLIC_CIDR').rsplit('.', 1)[0]
        neutron.create_subnet(
            name='public-subnet',
            network_id=public.id,
            ip_version=4,
            cidr=setting('PUBLIC_CIDR'),
            gateway_ip=setting('PUBLIC_GATEWAY'),
            is_dhcp_enabled=False,
            allocation_pools=[{'start': f'{prefix}.10', 'end': f'{prefix}.250'}],
        )
    if neutron.find_router('router1'):
        return
    demo = cloud.identity.find_project('demo').id
    private = neutron.find_network('private', project_id=demo) or neutron.create_network(
        name='private', project_id=demo
    )
    subnet = neutron.find_subnet('private-subnet') or neutron.create_subnet(
        name='private-subnet',
        network_id=private.id,
        project_id=demo,
        ip_version=4,
        cidr=setting('PRIVATE_CIDR'),
        dns_nameservers=[setting('PUBLIC_GATEWAY')],
    )
    router = neutron.create_router(
        name='router1', project_id=demo, external_gateway_info={'network_id': public.id}
    )
    neutron.add_interface_to_router(router, subnet_id=subnet.id)


def seed_flavors(cloud: Any) -> None:
    """Flavors of sandboxes, which land on their hosts only, and one of a small VM."""
    present = {flavor.name for flavor in cloud.compute.flavors()}
    for name, (vcpus, ram, disk) in SANDBOX_FLAVORS.items():
        if name not in present:
            flavor = cloud.compute.create_flavor(name=name, vcpus=vcpus, ram=ram, disk=disk)
            cloud.compute.create_flavor_extra_specs(flavor, {f'trait:{TRAIT}': 'required'})
    if 'm1.nano' not in present:
        cloud.compute.create_flavor(name='m1.nano', vcpus=1, ram=64, disk=1)


def seed_images(cloud: Any) -> None:
    """The image of sandboxes, from its Docker archive, and an image that says nothing."""
    present = {image.name for image in cloud.image.images()}
    if IMAGE not in present:
        cloud.image.create_image(
            name=IMAGE,
            data=io.BytesIO(Path(setting('PAUSE_ARCHIVE')).read_bytes()),
            visibility='public',
            container_format='docker',
            disk_format='raw',
            img_hv_type='docker',
            **{f'trait:{TRAIT}': 'required'},
        )
    if 'plain' not in present:
        cloud.image.create_image(
            name='plain',
            data=io.BytesIO(bytes(1 << 20)),
            visibility='public',
            container_format='bare',
            disk_format='raw',
        )


def seed_host(cloud: Any, host: str) -> None:
    """The aggregate that keeps other servers off the hosts of sandboxes."""
    nova = cloud.compute
    hypervisor = wait(
        f'compute host {host}',
        lambda: next(
            (one for one in nova.hypervisors(details=True) if one.service_details['host'] == host),
            None,
        ),
    )
    aggregate = next((one for one in nova.aggregates() if one.name == 'sandboxes'), None)
    if aggregate is None:
        aggregate = nova.create_aggregate(name='sandboxes')
    if (aggregate.metadata or {}).get(f'trait:{TRAIT}') != 'required':
        nova.set_aggregate_metadata(aggregate, {f'trait:{TRAIT}': 'required'})
    if host not in (aggregate.hosts or []):
        # Nova copies the aggregate to Placement only when the host's record is there.
        wait(
            f'resource provider of {host}',
            lambda: cloud.placement.find_resource_provider(hypervisor.name),
        )
        wait(f'mapping of {host}', lambda: nova.add_host_to_aggregate(aggregate, host))


def seed_cloud(cloud: Any) -> None:
    """Everything that needs the services."""
    seed_flavors(cloud)
    seed_images(cloud)
    seed_networks(cloud)
    seed_host(cloud, setting('HOST'))


def seed_second(cloud: Any) -> None:
    """The second host, when all that it needs is there."""
    host = setting('SECOND_HOST')
    wait(
        f'Open vSwitch agent of {host}',
        lambda: any(agent.is_alive for agent in cloud.network.agents(host=host)),
    )
    seed_host(cloud, host)


def seed_machines(cloud: Any) -> None:
    """What a guest of the host of virtual machines is made of, and that host's network agent."""
    guest = Path(setting('GUEST'))
    kernel = seed_file(cloud, 'machine-kernel', guest / 'vmlinuz', 'aki')
    ramdisk = seed_file(cloud, 'machine-ramdisk', guest / 'initrd', 'ari')
    seed_file(
        cloud,
        'machine',
        guest / 'disk',
        'bare',
        kernel_id=kernel,
        ramdisk_id=ramdisk,
        img_hv_type='qemu',
        os_command_line='console=ttyS0 quiet',
    )
    if 'm1.micro' not in {flavor.name for flavor in cloud.compute.flavors()}:
        cloud.compute.create_flavor(name='m1.micro', vcpus=1, ram=256, disk=1)
    host = setting('VM_HOST')
    wait(
        f'Open vSwitch agent of {host}',
        lambda: any(agent.is_alive for agent in cloud.network.agents(host=host)),
    )


def seed_file(cloud: Any, name: str, path: Path, kind: str, **properties: str) -> str:
    """A public image that holds a file, made anew where the file or a property is another."""
    data = path.read_bytes()
    checksum = hashlib.md5(data, usedforsecurity=False).hexdigest()
    for image in list(cloud.image.images(name=name)):
        shown = {**image.to_dict(), **image.properties}
        if image.checksum == checksum and properties.items() <= shown.items():
            return str(image.id)
        cloud.image.delete_image(image)
    made = cloud.image.create_image(
        name=name,
        data=io.BytesIO(data),
        visibility='public',
        container_format=kind,
        disk_format='raw' if kind == 'bare' else kind,
        **properties,
    )
    return str(made.id)


def forget_host(cloud: Any, host: str) -> None:
    """The records of a host that runs no more.

    :raises openstack.exceptions.ConflictException: servers are on it
    """
    for aggregate in cloud.compute.aggregates():
        if host in (aggregate.hosts or []):
            cloud.compute.remove_host_from_aggregate(aggregate, host)
    for service in cloud.compute.services(host=host):
        cloud.compute.delete_service(service)
    for agent in cloud.network.agents(host=host):
        cloud.network.delete_agent(agent)


def main() -> None:
    """Runs the part that the command line names."""
    parts = {
        'identity': seed_identity,
        'cloud': seed_cloud,
        'second': seed_second,
        'machines': seed_machines,
        'no-vm-host': lambda cloud: forget_host(cloud, setting('VM_HOST')),
        'no-fake-host': lambda cloud: forget_host(cloud, setting('FAKE_HOST')),
        'no-second': lambda cloud: forget_host(cloud, setting('SECOND_HOST')),
    }
    parts[sys.argv[1]](openstack.connect(cloud='admin'))


if __name__ == '__main__':
    main()
