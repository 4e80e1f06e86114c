"""From the body of a create request to what the manager takes: pure functions."""

from __future__ import annotations

import ipaddress
import secrets
import shlex
import typing

from zun_agent import errors
from zun_agent.api.schemas import boolean, count

Json = dict[str, typing.Any]

MINIMUM_CPU = 0.1
MINIMUM_MEMORY_MB = 6
"""The least that Docker takes; there is no most but the sandbox's own."""

_NOT_YET = ('mounts', 'healthcheck', 'exposed_ports', 'registry', 'runtime', 'privileged')

_WORDS = (
    'amber', 'aspen', 'basalt', 'birch', 'cedar', 'cobalt', 'coral', 'dune', 'ember', 'fern',
    'fjord', 'flint', 'garnet', 'granite', 'hazel', 'heron', 'indigo', 'iris', 'ivy', 'jade',
    'juniper', 'kestrel', 'lagoon', 'larch', 'linden', 'maple', 'marble', 'meadow', 'onyx',
    'opal', 'osprey', 'pebble', 'pine', 'quartz', 'raven', 'river', 'rowan', 'saffron', 'sage',
    'slate', 'spruce', 'tern', 'thistle', 'topaz', 'tundra', 'umber', 'willow', 'wren',
)  # fmt: skip


def random_name() -> str:
    """Return a name for a container that its user gave none."""
    return f'{secrets.choice(_WORDS)}-{1 + secrets.randbelow(999)}-container'


def cpu(value: typing.Any) -> float | None:
    """Return cores.

    :raises SchemaValidationError: it is too little
    """
    if value in (None, ''):
        return None
    number = float(value)
    if number < MINIMUM_CPU:
        raise errors.SchemaValidationError(
            f"Invalid input for field 'cpu': {value} is less than the minimum of {MINIMUM_CPU}"
        )
    return number


def memory(value: typing.Any) -> int | None:
    """Return MiB.

    :raises SchemaValidationError: it is too little
    """
    return _whole('memory', value, MINIMUM_MEMORY_MB)


def _whole(field: str, value: typing.Any, minimum: int) -> int | None:
    number = count(value)
    if number is not None and number < minimum:
        raise errors.SchemaValidationError(
            f'Invalid input for field {field!r}: {value} is less than the minimum of {minimum}'
        )
    return number


def words(field: str, line: str) -> list[str]:
    """Split a command line as a shell would.

    :raises Invalid: a quote is not closed
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise errors.Invalid(f'Invalid input for field {field!r}: {error}: {line!r}') from error


def restart_policy(given: Json | None, *, auto_remove: bool) -> Json | None:
    """Return the policy with its count as a number.

    :raises Invalid: the parts do not go together
    """
    if not given:
        return None
    name = given['Name']
    retries = count(given.get('MaximumRetryCount')) or 0
    if retries and name not in ('on-failure', 'no'):
        raise errors.Invalid(
            f"Invalid input for field 'restart_policy': MaximumRetryCount goes with on-failure, "
            f'not with {name}'
        )
    if auto_remove and name != 'no':
        raise errors.Invalid(
            f'auto_remove and restart_policy {name} contradict each other; give one of them'
        )
    return {'Name': name, 'MaximumRetryCount': retries}


def nets(given: list[Json] | None) -> list[Json]:
    """Return the networks asked for, without the members that say nothing.

    :raises Invalid: one names no network and no port, or both, or a bad address
    """
    result = []
    for index, net in enumerate(given or []):
        field = f'nets/{index}'
        made: Json = {key: value for key, value in net.items() if value not in (None, '')}
        if ('network' in made) == ('port' in made):
            raise errors.Invalid(
                f'Invalid input for field {field!r}: exactly one of network and port is needed'
            )
        for key, kind in (
            ('v4-fixed-ip', ipaddress.IPv4Address),
            ('v6-fixed-ip', ipaddress.IPv6Address),
        ):
            if key in made:
                _check_address(f'{field}/{key}', made[key], kind)
        if 'preserve' in made:
            made['preserve'] = boolean(made['preserve'])
        result.append(made)
    return result


def _check_address(field: str, value: str, kind: typing.Callable[[str], object]) -> None:
    try:
        kind(value)
    except ValueError as error:
        raise errors.Invalid(f'Invalid input for field {field!r}: {error}') from error


def _check_supported(body: Json) -> None:
    for field in _NOT_YET:
        value = body.get(field)
        if value and value not in ('False', 'false'):
            raise errors.Invalid(f"Field '{field}' is not supported by this service yet.")
    if body.get('cpu_policy') == 'dedicated':
        raise errors.Invalid("cpu_policy 'dedicated' is not supported by this service yet.")


def _image_driver(name: str | None, drivers: list[str]) -> str | None:
    if name in (None, '', 'None'):
        return None
    if name not in drivers:
        raise errors.Invalid(
            f"Invalid input for field 'image_driver': {name!r} is not one of {drivers}"
        )
    return name


def _strings(given: Json | None) -> dict[str, str]:
    return {key: str(value) for key, value in (given or {}).items()}


def of_body(body: Json, *, tty_apart: bool, image_drivers: list[str]) -> Json:
    """Return the manager's spec for a body that fits its schema.

    :param tty_apart: whether ``tty`` has a meaning of its own; before microversion 1.36
        it was what ``interactive`` is
    :param image_drivers: that there are
    :raises Invalid: members contradict each other, or ask for what is not there yet
    """
    _check_supported(body)
    command = body.get('command')
    if isinstance(command, str):
        command = words('command', command)
    interactive = boolean(body.get('interactive'))
    auto_remove = boolean(body.get('auto_remove'))
    return {
        'image': body['image'],
        'name': body.get('name') or random_name(),
        'command': command or None,
        'entrypoint': body.get('entrypoint') or None,
        'cpu': cpu(body.get('cpu')),
        'cpu_policy': body.get('cpu_policy') or 'shared',
        'memory': memory(body.get('memory')),
        'disk': _whole('disk', body.get('disk'), 1),
        'environment': _strings(body.get('environment')),
        'workdir': body.get('workdir') or None,
        'labels': _strings(body.get('labels')),
        'hints': {key: value for key, value in (body.get('hints') or {}).items() if value},
        'hostname': body.get('hostname') or None,
        'restart_policy': restart_policy(body.get('restart_policy'), auto_remove=auto_remove),
        'interactive': interactive,
        'tty': boolean(body.get('tty')) if tty_apart else interactive,
        'auto_remove': auto_remove,
        'auto_heal': boolean(body.get('auto_heal')),
        'image_driver': _image_driver(body.get('image_driver'), image_drivers),
        'image_pull_policy': body.get('image_pull_policy') or None,
        'security_groups': list(body.get('security_groups') or []),
        'nets': nets(body.get('nets')),
        'availability_zone': body.get('availability_zone') or None,
        'host': body.get('host') or None,
    }


def changes(body: Json) -> Json:
    """Return the manager's changes for the body of an update.

    :raises Invalid: it changes nothing, or to something that cannot be
    """
    made: Json = {}
    if body.get('name'):
        made['name'] = body['name']
    for field, read in (('cpu', cpu), ('memory', memory)):
        value = read(body.get(field))
        if value is not None:
            made[field] = value
    if body.get('auto_heal') is not None:
        made['auto_heal'] = boolean(body['auto_heal'])
    if not made:
        raise errors.Invalid('The request changes nothing: give name, cpu, memory or auto_heal.')
    return made
