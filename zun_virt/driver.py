"""The compute driver: what nova asks, in nova's words."""

from __future__ import annotations

import pathlib
from typing import Any

import nova.conf
from nova import exception
from nova.compute import vm_states
from nova.image import glance
from nova.virt import driver
from oslo_log import log as logging

from zun_virt import (
    cgroup,
    checks,
    conf,
    config_drive,
    copies,
    engine,
    freezing,
    image,
    lifecycle,
    network,
    privsep,
    sandbox,
)
from zun_virt.caching import Caching
from zun_virt.connector import Connector
from zun_virt.errors import FAILURES, in_novas_words
from zun_virt.host import Host, HostError, connect
from zun_virt.inspection import Inspection
from zun_virt.minding import Minding
from zun_virt.moving import Moving
from zun_virt.offering import Offering
from zun_virt.refusals import Refusals
from zun_virt.rescuing import Rescuing
from zun_virt.snapshots import Snapshots
from zun_virt.storage import volumes_of

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF
conf.register(CONF)

_DESTROY_SECONDS = 10


class ZunDriver(
    Inspection,
    Minding,
    Caching,
    Offering,
    Moving,
    Rescuing,
    Snapshots,
    Refusals,
    driver.ComputeDriver,
):
    """Sandboxes: servers that are a place to run containers."""

    capabilities = dict(
        driver.ComputeDriver.capabilities,
        supports_attach_interface=True,
        supports_evacuate=True,
        supports_extend_volume=True,
        supports_image_type_raw=True,
    )

    # -- the host ---------------------------------------------------------------------

    def init_host(self, host: str) -> None:
        """Connect to the host's services, or refuse to start.

        :raises nova.exception.InvalidConfiguration: sandboxes cannot be made here
        """
        config = CONF.zun_virt
        try:
            privsep.start()
            client = connect(config.docker_url, config.docker_timeout, engine.PATIENCE)
            self._host = Host(client, host, config.max_parallel_starts)
            facts = self._host.check()
            client = connect(config.docker_url, copies.TIMEOUT, engine.PATIENCE)
            self._copies = copies.Copies(client)
            self._defaults = checks.at_start(facts)
            self._cgroups = cgroup.make(
                facts.cgroup_driver, facts.cgroup_version, config.cgroup_root
            )
            store = sandbox.SandboxStore(config.state_path)
            store.prepare()
            self._images = image.Images(
                self._host,
                glance.API(),
                scratch=pathlib.Path(config.state_path),
                architecture=facts.architecture,
                configured=config.sandbox_image,
                largest=config.max_snapshot_size << 30,
            )
            self._images.prepare()
            self._volumes = volumes_of(store)
        except (HostError, OSError, ValueError, privsep.PrivilegedError) as error:
            raise exception.InvalidConfiguration(f'No sandboxes on this host: {error}') from error
        self._name = host
        self._cgroup_driver = facts.cgroup_driver
        self._network = network.Network()
        self._sandboxes = lifecycle.Lifecycle(self._host, self._cgroups, store, config.lock_timeout)
        self._connector = Connector(self.virtapi, self._network, self._sandboxes)
        self._init_inspection()
        self._init_plugging(host)
        self._start_caching(client, host)
        self._start_minding(host)
        self._passes.add('images', self._age_images, max(0, CONF.image_cache.manager_interval))
        self._passes.add('ports', self._follow_ports, config.port_sync_interval)

    def cleanup_host(self, host: str) -> None:
        """End what `init_host` began."""
        self._stop_minding()
        self._host.close()
        self._copies.close()

    # -- making and removing ----------------------------------------------------------

    @in_novas_words
    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
    ) -> None:
        """Make a sandbox, and start it unless told otherwise."""
        self._build(
            context,
            instance,
            image_meta,
            network_info,
            block_device_info,
            injected=config_drive.Injected(injected_files, admin_password),
            power_on=power_on,
        )

    @in_novas_words
    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """Remove a sandbox and all that belongs to it, as far as it is there."""
        if self._is_reverted_here(instance):
            LOG.debug('It stays, and gets its former size back', instance=instance)
            return
        timeout = min(CONF.shutdown_timeout, _DESTROY_SECONDS)
        vifs = network_info or self._forgotten_ports(instance)
        try:
            self._remove(instance, timeout, vifs, block_device_info)
        except FAILURES as error:
            if instance.host in (None, self._name):
                raise
            # It was evacuated: nova-compute would not start for what it left here.
            LOG.warning(
                'Something is left of it, which is on host %s now: %s; the search for orphans '
                'tries again',
                instance.host,
                error,
                instance=instance,
            )
            return
        LOG.info('Removed', instance=instance)

    @in_novas_words
    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """Remove what a sandbox that has gone from this host left."""
        vifs = network_info if destroy_vifs else ()
        self._remove(instance, 0, vifs, block_device_info, ports_go=destroy_vifs)

    # -- power ------------------------------------------------------------------------

    @in_novas_words
    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        """Stop a sandbox and all that runs in it.

        :param timeout: seconds that its containers have to end by themselves
        """
        self._stop(instance, instance.get_network_info(), timeout)

    @in_novas_words
    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        """Start a sandbox; the agent then starts what ran when it was stopped."""
        rescued = instance.vm_state == vm_states.RESCUED
        self._start(context, instance, network_info, block_device_info, held=rescued)

    @in_novas_words
    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: str,
        block_device_info: Any = None,
        bad_volumes_callback: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        """Stop and start a sandbox, hard or gently; it runs afterwards in any case."""
        timeout = CONF.shutdown_timeout if reboot_type == 'SOFT' else 0
        try:
            self._stop(instance, network_info, timeout)
            self._start(context, instance, network_info, block_device_info)
        except FAILURES as error:
            if self._nova_listens():
                raise
            # nova does again what was cut off at its last end, and would not start for this.
            LOG.warning(
                'Its reboot was cut off at the last end of nova-compute and cannot be done now: '
                '%s; the server ends SHUTOFF, and may be started',
                error,
                instance=instance,
            )

    @in_novas_words
    def resume_state_on_host_boot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        share_info: Any,
        block_device_info: Any = None,
    ) -> None:
        """Start a sandbox that ran before the host was started anew.

        nova asks so for whatever it does not find running, as what was frozen when
        nova-compute was killed: of that, and of what runs, the network is made sure of.
        """
        if self._sandboxes.running(instance.uuid) is None:
            self._stop(instance, network_info, 0)
        self._start(context, instance, network_info, block_device_info)

    @in_novas_words
    def pause(self, instance: Any) -> None:
        """Freeze a sandbox and all that runs in it."""
        self._found(instance)
        freezing.freeze(self._host, self._sandboxes, instance.uuid)

    @in_novas_words
    def unpause(self, instance: Any) -> None:
        """Thaw a sandbox and all that was frozen with it."""
        self._found(instance)
        freezing.thaw(self._host, self._sandboxes, instance.uuid)

    def suspend(self, context: Any, instance: Any) -> None:
        """Freeze a sandbox; it uses no processor until it is resumed."""
        self.pause(instance)

    @in_novas_words
    def resume(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        share_info: Any = None,
    ) -> None:
        """Thaw a suspended sandbox, or start one that ended since, or is lost."""
        container = self._host.pause_container(instance.uuid)
        if container is not None and container.alive:
            freezing.thaw(self._host, self._sandboxes, instance.uuid)
            return
        # What was frozen in it outlives a pause container that is removed.
        self._stop(instance, network_info, 0)
        self._start(context, instance, network_info, block_device_info)
