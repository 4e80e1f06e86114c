"""What nova, Neutron and Glance know, in memory, behind the driver's own ways of asking them."""

import collections
import hashlib
import pathlib

from nova.network import model

from zun_virt import ports, servers


class FakePorts:
    """What nova and Neutron know of ports, behind `zun_virt.ports.Ports`.

    :ivar instances: nova's objects, whose caches are nova's
    :ivar neutron: ports and subnets as Neutron tells them, by id
    """

    def __init__(self):
        self.instances = {}
        self.neutron_ports, self.subnets, self.dhcp = {}, {}, {}
        self.truth = {}
        self.refreshed = []
        self.failures = []

    def servers(self):
        return list(self.instances.values())

    def cache(self, instance):
        self._call()
        return list(self.instances.get(instance.uuid, instance).get_network_info())

    def refresh(self, instance):
        self._call()
        self.refreshed.append(instance.uuid)
        instance.info_cache.network_info = model.NetworkInfo(self.truth[instance.uuid])

    def known(self):
        self._call()
        by_server = collections.defaultdict(list)
        for port in self.neutron_ports.values():
            by_server[port['device_id']].append(port)
        return ports.Known(by_server, self.subnets, self.dhcp)

    def has_lost(self, instance, port_id):
        self._call()
        port = self.neutron_ports.get(port_id)
        return port is None or port['device_id'] != instance.uuid

    # What a test does

    def tell(self, instance, *vifs):
        """Let Neutron say of a server's ports what these say, and nova follow when it asks."""
        self.instances[instance.uuid] = instance
        self.truth[instance.uuid] = vifs
        mine = [key for key, p in self.neutron_ports.items() if p['device_id'] == instance.uuid]
        for key in mine:
            del self.neutron_ports[key]
        for vif in vifs:
            fixed = []
            for subnet in vif['network']['subnets']:
                key = f'{vif["network"]["id"]} {subnet["cidr"]}'
                self.subnets[key] = {
                    'id': key,
                    'cidr': subnet['cidr'],
                    'gateway_ip': subnet['gateway']['address'],
                    'dns_nameservers': [server['address'] for server in subnet['dns']],
                    'enable_dhcp': False,
                    'host_routes': [
                        {'destination': route['cidr'], 'nexthop': route['gateway']['address']}
                        for route in subnet['routes']
                    ],
                }
                fixed += [{'subnet_id': key, 'ip_address': ip['address']} for ip in subnet['ips']]
            self.neutron_ports[vif['id']] = {
                'id': vif['id'],
                'device_id': instance.uuid,
                'network_id': vif['network']['id'],
                'fixed_ips': fixed,
            }

    def name(self, vif, fqdn):
        """Let Neutron give a port's addresses a name."""
        port = self.neutron_ports[vif['id']]
        port['dns_name'] = fqdn.partition('.')[0]
        port['dns_assignment'] = [
            {'ip_address': fixed['ip_address'], 'fqdn': f'{fqdn}.'} for fixed in port['fixed_ips']
        ]

    def _call(self):
        if self.failures:
            raise ports.PortsUnknown(self.failures.pop(0))


class FakeGlance:
    """nova's image API, as far as it downloads."""

    def __init__(self):
        self.data = {}
        self.properties = {'img_hv_type': 'docker'}
        self.descriptions = {}
        self.downloads = []

    def get(self, context, image_id):
        return {
            'id': image_id,
            'container_format': 'docker',
            'disk_format': 'raw',
            'checksum': hashlib.md5(self.data[image_id]).hexdigest(),
            'properties': self.properties,
            **self.descriptions.get(image_id, {}),
        }

    def download(self, context, image_id, data=None, dest_path=None, trusted_certs=None):
        self.downloads.append(image_id)
        pathlib.Path(dest_path).write_bytes(self.data[image_id])

    def update(self, context, image_id, description, data=None, purge_props=True):
        self.descriptions[image_id] = description
        self.data[image_id] = b''.join(iter(lambda: data.read(1000), b''))


class FakeServers:
    """What nova knows, behind the methods of `zun_virt.servers.Servers`."""

    def __init__(self):
        self.all = {}
        self.fates = {}

    def add(self, instance):
        """Have nova place a server here, about which it does nothing now."""
        instance.task_state = None
        instance.host = 'host1'
        self.all[instance.uuid] = instance

    def here(self):
        return list(self.all.values())

    def get(self, instance_id):
        return self.all.get(instance_id)

    def volumes(self, server):
        return {}

    def fate(self, instance_id):
        return self.fates.get(instance_id, servers.Fate.UNKNOWN)

    def alone(self, instance_id, act):
        act()
