"""Schemas of what clients send about containers."""

from __future__ import annotations

from zun_agent.api.schemas import BOOLEAN, COUNT, QUERY_BOOLEAN, Schema, object_of
from zun_agent.api.versions import Version

STRING = {'type': ['string', 'null']}
STRINGS = {'type': ['array', 'null'], 'items': {'type': 'string'}}
NAME = {
    'type': ['string', 'null'],
    'minLength': 2,
    'maxLength': 255,
    'pattern': r'^[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z',
}
IMAGE = {'type': 'string', 'minLength': 2, 'maxLength': 255, 'pattern': '[a-zA-Z0-9][a-zA-Z0-9_.-]'}
# Their ranges are checked once they are numbers: a schema cannot look into a text.
CPU = {
    'type': ['number', 'string', 'null'],
    'maximum': 99999,
    'pattern': r'^([0-9]{1,5}(\.[0-9]{1,6})?)?\Z',
}
WHOLE = {'type': ['integer', 'string', 'null'], 'maximum': 999999999, 'pattern': r'^[0-9]{0,9}\Z'}

_REFERENCE = {'type': ['string', 'null'], 'maxLength': 255}

NET = {
    **object_of(
        {
            'network': _REFERENCE,
            'port': _REFERENCE,
            'v4-fixed-ip': {'type': ['string', 'null'], 'maxLength': 15},
            'v6-fixed-ip': {'type': ['string', 'null'], 'maxLength': 45},
            'preserve': BOOLEAN,
            'tag': {'type': 'null'},  # Heat writes it, without a value
        }
    ),
}

RESTART_POLICY = {
    **object_of(
        {
            'Name': {'enum': ['no', 'always', 'on-failure', 'unless-stopped']},
            'MaximumRetryCount': {
                'type': ['integer', 'string', 'null'],
                'minimum': 0,
                'maximum': 999999999,
                'pattern': r'^[0-9]{0,9}\Z',
            },
        },
        required=('Name',),
    ),
    'type': ['object', 'null'],
}

ENVIRONMENT = {
    'type': ['object', 'null'],
    'propertyNames': {'pattern': r'^[^=\x00]+\Z'},
    'additionalProperties': {'type': ['string', 'number']},
}

LABELS = {
    'type': ['object', 'null'],
    'propertyNames': {'minLength': 1},
    'additionalProperties': {'type': ['string', 'number']},
}

HINTS = {
    **object_of({'sandbox': _REFERENCE, 'flavor': _REFERENCE}),
    'type': ['object', 'null'],
}

MOUNT = object_of(
    {
        'source': {'type': 'string'},
        'destination': {'type': 'string', 'minLength': 1},
        'size': {'type': ['string', 'integer']},
        'type': {'enum': ['volume', 'bind']},
    },
    required=('destination',),
)

_CREATE = {
    'name': NAME,
    'image': IMAGE,
    'command': STRINGS,
    'entrypoint': STRINGS,
    'cpu': CPU,
    'cpu_policy': {'enum': ['dedicated', 'shared', None]},
    'memory': WHOLE,
    'disk': WHOLE,
    'workdir': {'type': ['string', 'null'], 'maxLength': 4096, 'pattern': r'^(/.*)?\Z'},
    'environment': ENVIRONMENT,
    'labels': LABELS,
    'hints': HINTS,
    'restart_policy': RESTART_POLICY,
    'interactive': BOOLEAN,
    'tty': BOOLEAN,
    'auto_heal': BOOLEAN,
    'auto_remove': BOOLEAN,
    'image_driver': STRING,
    'image_pull_policy': {'enum': ['never', 'always', 'ifnotpresent', '', None]},
    'security_groups': {
        'type': ['array', 'null'],
        'items': {'type': 'string', 'minLength': 1, 'maxLength': 255},
    },
    'nets': {'type': ['array', 'null'], 'items': NET},
    'hostname': {'type': ['string', 'null'], 'maxLength': 255, 'pattern': r'^[a-zA-Z0-9._-]*\Z'},
    'availability_zone': {'type': ['string', 'null'], 'maxLength': 255},
    'host': {'type': ['string', 'null'], 'maxLength': 255},
    'runtime': STRING,
    'privileged': BOOLEAN,
    'mounts': {'type': ['array', 'null'], 'items': MOUNT},
    'healthcheck': {'type': ['object', 'null']},
    'exposed_ports': {'type': ['object', 'null']},
    'registry': STRING,
}

LIST_COMMAND = Version(1, 20)

_CREATE_BY_LINE = {**_CREATE, 'command': STRING}

_CREATE_SCHEMA = Schema(object_of(_CREATE, required=('image',)))
_CREATE_SCHEMA_BY_LINE = Schema(object_of(_CREATE_BY_LINE, required=('image',)))


def create(version: Version) -> Schema:
    """Return the schema of the body of ``POST /containers``."""
    return _CREATE_SCHEMA if version >= LIST_COMMAND else _CREATE_SCHEMA_BY_LINE


FIELDS_SINCE = {
    'auto_remove': Version(1, 3),
    'runtime': Version(1, 5),
    'hostname': Version(1, 9),
    'mounts': Version(1, 11),
    'privileged': Version(1, 21),
    'healthcheck': Version(1, 22),
    'exposed_ports': Version(1, 24),
    'registry': Version(1, 31),
}
"""Members of the create body that an older microversion refuses.

The others that came later (nets, cpu_policy, host, entrypoint) Zun takes at any version.
"""

CREATE_QUERY = Schema(object_of({'run': QUERY_BOOLEAN}))

UPDATE = Schema(object_of({'name': NAME, 'cpu': CPU, 'memory': WHOLE, 'auto_heal': BOOLEAN}))
RESIZE = Schema(object_of({'cpu': CPU, 'memory': WHOLE}))
RENAME = Schema(object_of({'name': {**NAME, 'type': 'string'}}, required=('name',)))

# Its other keys are checked where they are read.
LIST = Schema({'properties': {'all_projects': QUERY_BOOLEAN}})
SHOW = Schema(object_of({'all_projects': QUERY_BOOLEAN}))
DELETE = Schema(
    object_of(
        {
            'force': QUERY_BOOLEAN,
            'stop': QUERY_BOOLEAN,
            'timeout': COUNT,
            'all_projects': QUERY_BOOLEAN,
        }
    )
)

NOTHING = Schema(object_of({}))
STOP = Schema(object_of({'timeout': COUNT}))
KILL = Schema(object_of({'signal': {'type': ['string', 'integer', 'null'], 'maxLength': 20}}))

LOGS = Schema(
    object_of(
        {
            'stdout': QUERY_BOOLEAN,
            'stderr': QUERY_BOOLEAN,
            'timestamps': QUERY_BOOLEAN,
            'tail': {'type': 'string', 'pattern': r'^(all|[0-9]{0,9})\Z'},
            'since': {
                'type': 'string',
                'pattern': r'^([0-9]{0,12}|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d([.,]\d{1,6})?)\Z',
            },
        }
    )
)
EXECUTE = Schema(
    object_of(
        {
            'command': {'type': 'string', 'minLength': 1},
            'run': QUERY_BOOLEAN,
            'interactive': QUERY_BOOLEAN,
        },
        required=('command',),
    )
)
TOP = Schema(
    object_of({'ps_args': {'type': 'string', 'maxLength': 255, 'pattern': r'^[a-zA-Z\-, +]*\Z'}})
)
