"""The query behind a listing of containers: filters, order and pages."""

from __future__ import annotations

import typing

import sqlalchemy as sa
from oslo_utils import strutils
from sqlalchemy.orm import InstrumentedAttribute, Session

from zun_agent import errors
from zun_agent.models import Container

FILTERS: dict[str, InstrumentedAttribute[typing.Any]] = {
    'name': Container.name,
    'image': Container.image,
    'project_id': Container.project_id,
    'user_id': Container.user_id,
    'memory': Container.memory,
    'host': Container.host,
    'task_state': Container.task_state,
    'status': Container.status,
    'auto_remove': Container.auto_remove,
    'uuid': Container.uuid,
}

SORT_KEYS: dict[str, InstrumentedAttribute[typing.Any]] = {
    **FILTERS,
    'id': Container.id,
    'cpu': Container.cpu,
    'disk': Container.disk,
    'created_at': Container.created_at,
    'updated_at': Container.updated_at,
    'started_at': Container.started_at,
    'availability_zone': Container.availability_zone,
    'image_driver': Container.image_driver,
}


def page(
    session: Session,
    project_id: str | None,
    *,
    filters: dict[str, typing.Any],
    limit: int | None,
    marker: str | None,
    sort_key: str,
    sort_dir: str,
) -> list[Container]:
    """Return the containers after `marker`, in the order asked for.

    :raises errors.Invalid: unknown marker, filter, sort key or direction
    """
    query = sa.select(Container).where(*_conditions(filters))
    if project_id is not None:
        query = query.where(Container.project_id == project_id)
    column = SORT_KEYS.get(sort_key)
    if column is None:
        raise errors.Invalid(f'Containers cannot be sorted by {sort_key!r}.')
    if sort_dir not in ('asc', 'desc'):
        raise errors.Invalid(f"The sort direction is 'asc' or 'desc', not {sort_dir!r}.")
    if marker is not None:
        last = session.scalars(query.where(Container.uuid == marker)).one_or_none()
        last = (
            last
            or session.scalars(
                sa.select(Container).where(
                    Container.uuid == marker,
                    sa.true() if project_id is None else Container.project_id == project_id,
                )
            ).one_or_none()
        )
        if last is None:
            raise errors.Invalid(f'The marker {marker} is not the id of a container.')
        query = query.where(_after(column, getattr(last, column.key), last.id, sort_dir))
    keys = (column.is_(None), column, Container.id)
    query = query.order_by(*(key.asc() if sort_dir == 'asc' else key.desc() for key in keys))
    return list(session.scalars(query.limit(limit) if limit is not None else query))


def _conditions(filters: dict[str, typing.Any]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    for name, value in filters.items():
        if name not in FILTERS:
            raise errors.Invalid(f'Containers cannot be filtered by {name!r}.')
        if value is not None:
            conditions.append(FILTERS[name] == _value(name, value))
    return conditions


def _value(name: str, value: typing.Any) -> typing.Any:
    """Return a filter's value as its column holds it; the query string has only text."""
    try:
        if name == 'memory':
            return _integer(str(value).rstrip('Mm'))
        if name == 'auto_remove':
            return strutils.bool_from_string(value, strict=True)
    except ValueError as error:
        raise errors.Invalid(f'{value!r} is no value of the filter {name!r}.') from error
    return str(value)


def _integer(text: str) -> int:
    """Return a number that every database can compare with.

    :raises ValueError: it is none
    """
    number = int(text)
    if number.bit_length() > 63:
        raise ValueError(f'{text} is too large')
    return number


def _after(
    column: InstrumentedAttribute[typing.Any], value: typing.Any, row_id: int, sort_dir: str
) -> sa.ColumnElement[bool]:
    """Return the condition for what comes after a row; NULLs are last, descending first."""
    ascending = sort_dir == 'asc'
    later_row = Container.id > row_id if ascending else Container.id < row_id
    if value is None:
        same = sa.and_(column.is_(None), later_row)
        return same if ascending else sa.or_(same, column.is_not(None))
    same = sa.and_(column == value, later_row)
    if ascending:
        return sa.or_(column > value, same, column.is_(None))
    return sa.or_(column < value, same)
