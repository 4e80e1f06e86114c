"""JSON schemas of bodies and queries, and the one way to apply them."""

from __future__ import annotations

import typing

import jsonschema
from jsonschema import exceptions

from zun_agent import errors

_LONGEST_MESSAGE = 500


class Schema:
    """A JSON schema, compiled once."""

    def __init__(self, definition: dict[str, typing.Any]) -> None:
        """Compile `definition`."""
        self._validator = jsonschema.Draft202012Validator(definition)

    def validate(self, instance: typing.Any) -> None:
        """Do nothing if `instance` fits.

        :raises SchemaValidationError: naming the field and what is wrong with it
        """
        error = exceptions.best_match(self._validator.iter_errors(instance))
        if error is None:
            return
        message = error.message
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + '...'
        field = '/'.join(str(step) for step in error.absolute_path)
        if field:
            message = f'Invalid input for field {field!r}: {message}'
        raise errors.SchemaValidationError(message)


def object_of(
    properties: dict[str, typing.Any], required: tuple[str, ...] = ()
) -> dict[str, typing.Any]:
    """Return the schema of an object that has these members and no others."""
    return {
        'type': 'object',
        'properties': properties,
        'required': list(required),
        'additionalProperties': False,
    }


TRUE_WORDS = ('True', 'true', '1')
FALSE_WORDS = ('False', 'false', '0')

BOOLEAN = {'enum': [True, False, 'True', 'true', 'False', 'false', None]}
QUERY_BOOLEAN = {'enum': [True, False, *TRUE_WORDS, *FALSE_WORDS, '']}
COUNT = {
    'type': ['string', 'integer', 'null'],
    'minimum': 0,
    'maximum': 999999999,
    'pattern': r'^[0-9]{0,9}\Z',
}
"""A number of 0 or more, also as text; nothing stands for none."""


def boolean(value: typing.Any, default: bool = False) -> bool:
    """Return what a value that fits `BOOLEAN` or `QUERY_BOOLEAN` means."""
    if value is None or value == '':
        return default
    return value is True or value in TRUE_WORDS


def count(value: typing.Any) -> int | None:
    """Return what a value that fits `COUNT` means."""
    return None if value in (None, '') else int(value)
