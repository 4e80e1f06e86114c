"""The part of the driver that tells nova and placement what the host offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nova.conf
import os_resource_classes as orc
import os_traits

from zun_virt import cores, host, resources
from zun_virt.errors import in_novas_words

CONF = nova.conf.CONF


class Offering:
    """Answers nova's questions about the host."""

    _host: host.Host
    _name: str
    _servers_are_known: Callable[[], None]
    _get_allocation_ratios: Callable[[Any], dict[str, float]]
    _get_reserved_host_disk_gb_from_config: Callable[[], int]

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """Return the one node: this host."""
        return [self._name]

    def get_host_ip_addr(self) -> str:
        """Return the address that migrations and evacuations record."""
        return str(CONF.my_ip)

    def get_host_uptime(self) -> str:
        """Return how long the host has been up."""
        return resources.uptime()

    @in_novas_words
    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """Return what the host has, for nova's resource tracker."""
        # nova asks first when it has done what it does by itself with every server here.
        self._servers_are_known()
        running = sum(container.alive for container in self._host.sandboxes())
        facts = self._host.facts()
        return resources.available(facts, cores.nodes(facts.memory_mb), nodename, running)

    @in_novas_words
    def update_provider_tree(
        self, provider_tree: Any, nodename: str, allocations: Any = None
    ) -> None:
        """Tell placement what the host has, and that it is one for sandboxes."""
        ratios = self._get_allocation_ratios(provider_tree.data(nodename).inventory)
        reserved = {
            orc.VCPU: CONF.reserved_host_cpus,
            orc.MEMORY_MB: CONF.reserved_host_memory_mb,
            orc.DISK_GB: self._get_reserved_host_disk_gb_from_config(),
        }
        facts = self._host.facts()
        provider_tree.update_inventory(nodename, resources.inventory(facts, ratios, reserved))
        provider_tree.add_traits(nodename, resources.TRAIT)
        # By it the scheduler tells where hw:cpu_thread_policy can be had.
        if cores.threaded(cores.nodes(facts.memory_mb)):
            provider_tree.add_traits(nodename, os_traits.HW_CPU_HYPERTHREADING)
        else:
            provider_tree.remove_traits(nodename, os_traits.HW_CPU_HYPERTHREADING)
