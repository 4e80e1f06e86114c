"""A manager that keeps containers in memory and does at once what it is told."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from zun_agent import errors, models
from zun_agent.models import Status

ALLOWED = {
    'delete': {'Created', 'Error', 'Stopped', 'Deleted', 'Dead'},
    'start': {'Created', 'Stopped', 'Error'},
    'stop': {'Running'},
    'reboot': {'Created', 'Running', 'Stopped', 'Error'},
    'pause': {'Running'},
    'unpause': {'Paused'},
    'kill': {'Running'},
    'execute': {'Running'},
    'top': {'Running'},
    'stats': {'Running'},
    'update': {'Created', 'Running', 'Stopped', 'Paused'},
    'logs': {'Created', 'Error', 'Paused', 'Running', 'Stopped', 'Unknown'},
}

NET = 'b4a6f9ac-9b33-4e3a-8b3e-5e2f5a2b7f11'
PORT = '0d9b8b56-bd2e-4f0e-93a6-1ab8d3d4c0aa'


def service(host: str, **fields: Any) -> models.Service:
    values = {
        'id': 1,
        'uuid': str(uuid.uuid5(uuid.NAMESPACE_DNS, host)),
        'host': host,
        'binary': 'zun-agent',
        'endpoint': 'http://127.0.0.1:1',
        'availability_zone': 'nova',
        'disabled': False,
        'forced_down': False,
        'report_count': 7,
        'last_seen_up': models.now(),
        'created_at': models.now(),
        'facts': {'mem_total': 4096, 'cpus': 2, 'os': 'Debian', 'disk_total': 40},
    }
    return models.Service(**{**values, **fields})


def addresses() -> dict[str, Any]:
    """Return a container's addresses, as the API shows them."""
    both = (('10.0.0.5', 4), ('fd00::5', 6))
    return {
        NET: [
            {
                'addr': address,
                'version': version,
                'port': PORT,
                'subnet_id': f'subnet{version}',
                'preserve_on_delete': False,
            }
            for address, version in both
        ]
    }


def plain() -> dict[str, Any]:
    """Return the columns of a container that runs, and of which nothing else was asked."""
    return {
        'uuid': str(uuid.uuid4()),
        'project_id': 'project',
        'user_id': 'user',
        'image': 'alpine',
        'image_driver': 'docker',
        'image_pull_policy': 'ifnotpresent',
        'status': Status.RUNNING,
        'created_at': models.now(),
        'started_at': models.now() - datetime.timedelta(seconds=200),
        'addresses': addresses(),
        **{key: {} for key in ('environment', 'labels', 'hints', 'restart_policy')},
        **dict.fromkeys(('interactive', 'tty', 'auto_remove', 'auto_heal'), False),
        'ports': [],
        'nets': [],
        'security_groups': [],
    }


class FakeManager:
    """Keeps every call in `calls`; raises `failure` instead of answering, if set."""

    def __init__(self, host: str = 'one') -> None:
        self.host = host
        self.calls: list[tuple[str, Any]] = []
        self.failure: Exception | None = None
        self.containers: dict[str, models.Container] = {}
        self.acts: dict[str, list[models.Action]] = {}
        self.known_services = [service(host)]
        self.down: set[str] = set()
        self.ids = 0

    def _called(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.failure is not None:
            raise self.failure

    def called(self, name: str) -> list[dict[str, Any]]:
        return [arguments for each, arguments in self.calls if each == name]

    def add(self, **fields: Any) -> models.Container:
        self.ids += 1
        values = {**plain(), 'id': self.ids, 'name': f'c{self.ids}', 'host': self.host}
        container = models.Container(**{**values, **fields})
        self.containers[container.uuid] = container
        return container

    def _act(self, context: Any, container: models.Container, action: str) -> None:
        if container.status not in ALLOWED[action]:
            raise errors.InvalidStateException(
                f'Cannot {action} container {container.uuid} in {container.status} state'
            )
        self._record(context, container, action)

    def _record(self, context: Any, container: models.Container, action: str) -> None:
        self.acts.setdefault(container.uuid, []).append(
            models.Action(
                container_uuid=container.uuid,
                action=action,
                request_id=context.request_id,
                user_id=context.user_id,
                project_id=context.project_id,
                start_time=models.now(),
                finish_time=models.now(),
            )
        )

    def create(self, context: Any, spec: dict[str, Any], *, run: bool) -> models.Container:
        self._called('create', context=context, spec=spec, run=run)
        fields = {
            key: value
            for key, value in spec.items()
            if key not in ('host', 'restart_policy', 'image_driver', 'image_pull_policy')
        }
        container = self.add(
            **fields,
            restart_policy=spec['restart_policy'] or {},
            image_driver=spec['image_driver'] or 'docker',
            image_pull_policy=spec['image_pull_policy'] or 'ifnotpresent',
            project_id=context.project_id,
            user_id=context.user_id,
            status=Status.CREATING,
        )
        self._record(context, container, 'create')
        return container

    def get(self, context: Any, ident: str, *, all_projects: bool = False) -> models.Container:
        self._called('get', ident=ident, all_projects=all_projects)
        found = [
            each
            for each in self.containers.values()
            if ident in (each.uuid, each.name)
            and (all_projects or each.project_id == context.project_id)
        ]
        if not found:
            raise errors.ContainerNotFound(f'Container {ident} could not be found.')
        if len(found) > 1:
            raise errors.ContainerNameNotUnique(f'Several containers are named {ident}.')
        return found[0]

    def list(self, context: Any, **arguments: Any) -> list[models.Container]:
        self._called('list', **arguments)
        found = [
            each
            for each in self.containers.values()
            if (arguments['all_projects'] or each.project_id == context.project_id)
            and all(str(getattr(each, key)) == value for key, value in arguments['filters'].items())
        ]
        if not hasattr(models.Container, arguments['sort_key']):
            raise errors.Invalid(f'Containers cannot be sorted by {arguments["sort_key"]!r}.')
        found.sort(key=lambda each: getattr(each, arguments['sort_key']))
        if arguments['sort_dir'] == 'desc':
            found.reverse()
        if arguments['marker']:
            uuids = [each.uuid for each in found]
            found = found[uuids.index(arguments['marker']) + 1 :]
        return found[: arguments['limit']]

    def update(
        self, context: Any, container: models.Container, changes: dict[str, Any]
    ) -> models.Container:
        self._called('update', changes=changes)
        self._act(context, container, 'update')
        for key, value in changes.items():
            setattr(container, key, value)
        return container

    def delete(
        self,
        context: Any,
        container: models.Container,
        *,
        force: bool,
        stop: bool,
        timeout: int | None,
    ) -> None:
        self._called('delete', force=force, stop=stop, timeout=timeout)
        if not (force or (stop and container.status == Status.RUNNING)):
            self._act(context, container, 'delete')
        del self.containers[container.uuid]

    def _become(self, context: Any, container: Any, action: str, status: Status) -> None:
        self._called(action)
        self._act(context, container, action)
        container.status = status

    def start(self, context: Any, container: models.Container) -> None:
        self._become(context, container, 'start', Status.RUNNING)

    def pause(self, context: Any, container: models.Container) -> None:
        self._become(context, container, 'pause', Status.PAUSED)

    def unpause(self, context: Any, container: models.Container) -> None:
        self._become(context, container, 'unpause', Status.RUNNING)

    def stop(self, context: Any, container: models.Container, timeout: int | None) -> None:
        self._become(context, container, 'stop', Status.STOPPED)
        self.calls[-1] = ('stop', {'timeout': timeout})
        container.exit_code, container.finished_at = 0, models.now()

    def restart(self, context: Any, container: models.Container, timeout: int | None) -> None:
        self._become(context, container, 'reboot', Status.RUNNING)
        self.calls[-1] = ('restart', {'timeout': timeout})

    def kill(self, context: Any, container: models.Container, signal: str | None) -> None:
        self._become(context, container, 'kill', Status.RUNNING)
        self.calls[-1] = ('kill', {'signal': signal})

    def logs(self, context: Any, container: models.Container, **arguments: Any) -> str:
        self._called('logs', **arguments)
        self._act(context, container, 'logs')
        return 'hällo\nworld\n'

    def execute(
        self, context: Any, container: models.Container, command: list[str]
    ) -> tuple[str, int | None]:
        self._called('execute', command=command)
        self._act(context, container, 'execute')
        return ' '.join(command) + '\n', 0

    def top(self, context: Any, container: Any, ps_args: str | None) -> dict[str, Any]:
        self._called('top', ps_args=ps_args)
        self._act(context, container, 'top')
        return {'Titles': ['PID', 'CMD'], 'Processes': [['1', 'sh']]}

    def stats(self, context: Any, container: models.Container) -> dict[str, Any]:
        self._called('stats')
        self._act(context, container, 'stats')
        return {
            'CONTAINER': container.name,
            'CPU %': 0.5,
            'MEM USAGE(MiB)': 1.5,
            'MEM LIMIT(MiB)': 64.0,
            'MEM %': 2.3,
            'BLOCK I/O(B)': '0/0',
            'NET I/O(B)': '1/2',
        }

    def actions(self, context: Any, container: models.Container) -> list[models.Action]:
        self._called('actions')
        return self.acts.get(container.uuid, [])

    def action(self, context: Any, container: models.Container, request_id: str) -> models.Action:
        self._called('action', request_id=request_id)
        for action in self.acts.get(container.uuid, []):
            if action.request_id == request_id:
                return action
        raise errors.ActionNotFound(f'Action {request_id} could not be found.')

    def wake(self, container: models.Container) -> None:
        self._called('wake', uuid=container.uuid)

    def services(self) -> list[models.Service]:
        self._called('services')
        return self.known_services

    def service_is_up(self, service: models.Service) -> bool:
        return service.host not in self.down

    def availability_zones(self) -> list[str]:
        self._called('availability_zones')
        return ['nova', 'edge']
