"""A config drive, as the containers of a sandbox see it."""

from __future__ import annotations

import base64
import json

from tests.cloud.cloud import Workspace, address

SCRIPT = '#!/bin/sh\necho began\n'
LATEST = '/config-drive/openstack/latest'


def test_it_is_in_every_container(space: Workspace) -> None:
    user = space.user
    server = space.server(
        config_drive=True,
        user_data=base64.b64encode(SCRIPT.encode()).decode(),
        metadata={'purpose': 'test'},
    )
    assert user.compute.get_server(server).has_config_drive == 'True'
    one = space.running(sandbox=server)
    told = json.loads(user.shell(one, f'cat {LATEST}/meta_data.json'))
    assert (told['uuid'], told['meta']) == (server, {'purpose': 'test'})
    assert user.shell(one, f'sh {LATEST}/user_data') == 'began\n'
    network = json.loads(user.shell(one, f'cat {LATEST}/network_data.json'))
    (port,) = user.network.ports(device_id=server)
    assert [link['ethernet_mac_address'] for link in network['links']] == [port.mac_address]
    assert [one['id'] for one in network['networks']] == ['network0'], address(user, server)
    refused = user.execute(one, 'touch /config-drive/file')
    assert 'Read-only file system' in refused[0]
    bare = space.running()
    assert user.execute(bare, 'ls /config-drive')[1] != 0
