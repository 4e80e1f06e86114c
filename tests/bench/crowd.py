"""(j) Many servers asked for in one request, and four times as many on one host."""

from __future__ import annotations

import contextlib
import time
import typing

from tests.bench import memory
from tests.bench.lab import FLAVOR, IMAGE, Lab, at_once
from tests.bench.measure import Row
from tests.cloud import cloud, host, settings
from tests.cloud.waiting import wait_until

MANY = 50
ALL = 200
_SECONDS = 600.0  # for fifty to be made, and for all of them to go
_LATER = 60.0  # for what Neutron and Placement do after a server has gone
_RATIOS = {'VCPU': 128.0, 'MEMORY_MB': 2.0}  # with which a small machine takes them all


def run(rows: list[Row], lab: Lab) -> None:
    """(j) All at once: made, others beside them, and all deleted again."""
    crowd = Crowd(lab)
    with contextlib.ExitStack() as stack:
        _make_room(stack, lab.space.admin)
        before, idle = host.look(), memory.nova_compute_mb()
        begin = time.perf_counter()
        crowd.post()
        asked = time.perf_counter() - begin
        crowd.until_active()
        active = time.perf_counter() - begin
        while len(crowd) < ALL:
            crowd.post()
            crowd.until_active()
        full = memory.nova_compute_mb()
        begin = time.perf_counter()
        crowd.delete()
        deleted = time.perf_counter() - begin
        wait_until(
            'nothing left',
            lambda: not host.left_behind(before),
            timeout=_LATER,
            interval=1,
            explain=lambda: str(host.left_behind(before)),
        )
    rows += [
        Row(
            key='j',
            unit='s',
            what=f'{MANY} servers in one request to ACTIVE, no failure',
            ours=active,
            note=f'the request took {asked:.1f} s',
        ),
        Row(key='j', unit='s', what=f'{ALL} servers deleted, nothing left', ours=deleted),
        Row(
            key='j',
            unit='MB',
            what=f'nova-compute with {ALL} sandboxes; before',
            ours=sum(full),
            raw=sum(idle),
            note=f'itself {full[0]:.0f} MB, {idle[0]:.0f} MB before',
        ),
    ]


class Crowd:
    """Servers that differ by a number behind their names."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._name = lab.space.name('crowd')
        self._servers: list[str] = []

    def __len__(self) -> int:
        return len(self._servers)

    def post(self) -> None:
        """Ask for so many more."""
        spec = {
            'name': self._name,
            'flavorRef': cloud.flavor_id(self._lab.space.user, FLAVOR),
            'imageRef': cloud.image_id(self._lab.space.user, IMAGE),
            'networks': [{'uuid': self._lab.network}],
            'min_count': MANY,
            'max_count': MANY,
        }
        self._lab.request('NOVA', 'POST', '/v2.1/servers', {'server': spec})
        known = {*self._servers}
        new = [str(one['id']) for one in self._shown() if one['id'] not in known]
        assert len(new) == MANY, f'{len(new)} servers were made'
        self._servers += map(self._lab.space.adopt_server, new)

    def until_active(self) -> None:
        """Wait for all of them."""

        def arrived() -> bool:
            states = self._states('nova') + self._states('nova_cell0')
            assert 'error' not in states, f'{states.count("error")} in ERROR\n{host.describe()}'
            return states == ['active'] * len(self)

        wait_until(f'{len(self)} servers ACTIVE', arrived, timeout=_SECONDS)
        shown = [one['status'] for one in self._shown()]
        assert shown == ['ACTIVE'] * len(self), f'the API shows {shown}'

    def delete(self) -> None:
        """Delete them, and wait until Nova knows none of them."""
        at_once(len(self), lambda number: self._delete(self._servers[number]), 4)
        wait_until('deleted', lambda: not self._states('nova'), timeout=_SECONDS)

    def _delete(self, server: str) -> None:
        self._lab.request('NOVA', 'DELETE', f'/v2.1/servers/{server}')

    def _shown(self) -> list[dict[str, typing.Any]]:
        answer = self._lab.request('NOVA', 'GET', '/v2.1/servers/detail', name=self._name)
        return list(answer['servers'])

    def _states(self, cell: str) -> list[str]:
        statement = (
            f'select vm_state from {cell}.instances where deleted = 0 and display_name like %s'
        )
        return [state for (state,) in self._lab.query(statement, f'{self._name}-%')]


def _make_room(stack: contextlib.ExitStack, admin: cloud.User) -> None:
    """Let the host of sandboxes have as much as they take, for a while."""
    placement = admin.sdk.placement
    found = placement.get(f'/resource_providers?name={settings.load().host}').json()
    (provider,) = found['resource_providers']

    def set_ratio(path: str, ratio: float) -> bool:
        # nova-compute may change the provider between the two requests.
        body = {**placement.get(path).json(), 'allocation_ratio': ratio}
        return bool(placement.put(path, json=body).status_code == 200)

    def until_set(path: str, ratio: float) -> None:
        wait_until('the ratio set', lambda: set_ratio(path, ratio), timeout=10)

    for name, ratio in _RATIOS.items():
        path = f'/resource_providers/{provider["uuid"]}/inventories/{name}'
        stack.callback(until_set, path, float(placement.get(path).json()['allocation_ratio']))
        until_set(path, ratio)
