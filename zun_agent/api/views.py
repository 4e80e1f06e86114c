"""The JSON of what the API shows; pure functions of the records."""

from __future__ import annotations

import datetime
import typing

from zun_agent import models
from zun_agent.models import Status

if typing.TYPE_CHECKING:
    from zun_agent.models import Action, Container, Service

Json = dict[str, typing.Any]

ADMIN_FIELDS = ('host', 'image_pull_policy', 'privileged', 'runtime')
"""Members of a container that are shown by a policy rule of their own."""


def links(base_url: str, resource: str, ident: str) -> list[Json]:
    """Return the links of one object."""
    path = f'{resource}/{ident}' if ident else f'{resource}/'
    return [
        {'href': f'{base_url}/v1/{path}', 'rel': 'self'},
        {'href': f'{base_url}/{path}', 'rel': 'bookmark'},
    ]


def time(moment: datetime.datetime | None) -> str | None:
    """Return a time of the store as Zun writes it."""
    return None if moment is None else str(moment)


def ago(since: datetime.datetime, now: datetime.datetime) -> str:
    """Return how long ago `since` is, in the one unit that tells most."""
    seconds = max(0, int((now - since).total_seconds()))
    for size, unit in ((86400, 'days'), (3600, 'hours'), (60, 'mins')):
        if seconds >= size:
            return f'{seconds // size} {unit}'
    return f'{seconds} seconds'


def status_detail(container: Container, now: datetime.datetime) -> str | None:
    """Return the text that tells more than the status, as ``docker ps`` does."""
    match container.status:
        case Status.CREATED | Status.RESTARTING | Status.DEAD:
            return str(container.status)
        case Status.RUNNING | Status.PAUSED if container.started_at:
            paused = ' (paused)' if container.status == Status.PAUSED else ''
            return f'Up {ago(container.started_at, now)}{paused}'
        case Status.STOPPED if container.exit_code is not None and container.finished_at:
            failed = '(error)' if container.exit_code else ''
            return f'Exited({container.exit_code}) {ago(container.finished_at, now)} ago {failed}'
    return None


def _restart_policy(policy: Json | None) -> Json:
    if not policy:
        return {}
    return {
        'Name': policy['Name'],
        'MaximumRetryCount': str(policy.get('MaximumRetryCount') or 0),
    }


def container(
    record: Container, base_url: str, shown: frozenset[str], now: datetime.datetime | None = None
) -> Json:
    """Return a container as the API shows it.

    :param shown: which of `ADMIN_FIELDS` the user may see
    :param now: the time at which `status_detail` is true
    """
    view = {
        'uuid': record.uuid,
        'links': links(base_url, 'containers', record.uuid),
        'user_id': record.user_id,
        'project_id': record.project_id,
        **_asked_for(record),
        'status': str(record.status),
        'status_reason': record.status_reason,
        'status_detail': status_detail(record, now or models.now()),
        'task_state': record.task_state,
        'host': record.host,
        'addresses': record.addresses or {},
        'ports': record.ports or [],
        'security_groups': record.security_groups or [],
        'created_at': time(record.created_at),
        'updated_at': time(record.updated_at),
        'runtime': None,
        'privileged': False,
        'registry_id': None,
    }
    for field in ADMIN_FIELDS:
        if field not in shown:
            del view[field]
    return view


def _asked_for(record: Container) -> Json:
    """Return what the user asked for.

    A container without a limit of its own has no ``cpu``, and an empty ``memory``: that
    one Horizon's panel takes for a string.
    """
    return {
        'name': record.name,
        'image': record.image,
        'image_driver': record.image_driver,
        'image_pull_policy': record.image_pull_policy,
        'command': record.command or [],
        'entrypoint': record.entrypoint,
        'environment': record.environment or {},
        'workdir': record.workdir,
        'labels': record.labels or {},
        'hostname': record.hostname,
        'cpu': record.cpu,
        'cpu_policy': record.cpu_policy,
        'memory': '' if record.memory is None else str(record.memory),
        'disk': record.disk or 0,
        'restart_policy': _restart_policy(record.restart_policy),
        'interactive': record.interactive,
        'tty': record.tty,
        'auto_remove': record.auto_remove,
        'auto_heal': record.auto_heal,
        'healthcheck': record.healthcheck or {},
    }


def networks(addresses: Json, *, grouped: bool) -> list[Json]:
    """Return the ports of a container with their addresses.

    :param addresses: as in a container's ``addresses``
    :param grouped: one item for each port, as since microversion 1.18; else one for
        each address
    """
    flat = [
        {
            'net_id': net_id,
            'port_id': address.get('port'),
            'subnet_id': address.get('subnet_id'),
            'version': address.get('version'),
            'ip_address': address.get('addr'),
        }
        for net_id, group in addresses.items()
        for address in group
    ]
    if not grouped:
        return flat
    ports: dict[tuple[str, str], Json] = {}
    for item in flat:
        net_id, port_id = item.pop('net_id'), item.pop('port_id')
        port = ports.setdefault(
            (net_id, port_id), {'net_id': net_id, 'port_id': port_id, 'fixed_ips': []}
        )
        port['fixed_ips'].append(item)
    return list(ports.values())


def action(record: Action, *, finish_time: bool) -> Json:
    """Return a request that changed a container.

    :param finish_time: whether the microversion knows of it
    """
    view = {
        'action': record.action,
        'container_uuid': record.container_uuid,
        'request_id': record.request_id,
        'user_id': record.user_id,
        'project_id': record.project_id,
        'start_time': time(record.start_time),
        'finish_time': time(record.finish_time),
        'message': None if record.message is None else 'Error',  # the word that Zun has
    }
    if not finish_time:
        del view['finish_time']
    return view


def event(record: Action, *, traceback: bool) -> Json:
    """Return the one step of a request: how it was carried out.

    Its ``message`` is no member that Zun has: it tells what went wrong.

    :param traceback: whether the user may see where; nobody needs to
    """
    ended = 'Success' if record.message is None else 'Error'
    view = {
        'event': record.action,
        'start_time': time(record.start_time),
        'finish_time': time(record.finish_time),
        'result': None if record.finish_time is None else ended,
        'message': record.message,
    }
    if traceback:
        view['traceback'] = None
    return view


def service(record: Service, *, up: bool) -> Json:
    """Return an agent as ``GET /services`` shows it."""
    return {
        'id': record.id,
        'host': record.host,
        'binary': record.binary,
        'state': 'up' if up else 'down',
        'disabled': record.disabled,
        'disabled_reason': record.disabled_reason,
        'last_seen_up': time(record.last_seen_up),
        'forced_down': record.forced_down,
        'report_count': record.report_count,
        'availability_zone': record.availability_zone,
        'created_at': time(record.created_at),
        'updated_at': time(record.updated_at),
    }


_HOST_FACTS: Json = {
    'mem_total': 0,
    'mem_used': 0,
    'cpus': 0,
    'cpu_used': 0.0,
    'architecture': None,
    'os_type': None,
    'os': None,
    'kernel_version': None,
    'labels': {},
    'total_containers': 0,
    'disk_total': 0,
    'disk_used': 0,
    'disk_quota_supported': False,
    'runtimes': [],
    'enable_cpu_pinning': False,
}


def host(record: Service, base_url: str, *, cpu_pinning: bool) -> Json:
    """Return a host, by what its agent last told of it.

    :param cpu_pinning: whether the microversion knows of it
    """
    facts = record.facts or {}
    view = {
        'uuid': record.uuid,
        'links': links(base_url, 'hosts', record.uuid),
        'hostname': record.host,
        **{key: facts.get(key, default) for key, default in _HOST_FACTS.items()},
    }
    if not cpu_pinning:
        del view['enable_cpu_pinning']
    return view
