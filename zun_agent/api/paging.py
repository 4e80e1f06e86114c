"""Pages of a listing: which one is asked for, and the link to the next."""

from __future__ import annotations

import dataclasses
import typing
import urllib.parse
from collections.abc import Collection

from zun_agent import errors

if typing.TYPE_CHECKING:
    from zun_agent.api.request import Request

KEYS = frozenset(('limit', 'marker', 'sort_key', 'sort_dir'))


@dataclasses.dataclass(frozen=True)
class Page:
    """A part of a listing.

    :ivar limit: items in it, at most
    :ivar marker: the uuid after which it begins; None for the first page
    """

    limit: int
    marker: str | None
    sort_key: str
    sort_dir: str


def page(request: Request, sort_keys: Collection[str] | None = None, sort_key: str = 'id') -> Page:
    """Read the page that the query asks for.

    :param sort_keys: by which the resource can be sorted; None leaves that to the manager
    :param sort_key: where the query names none
    :raises Invalid: the limit, key or direction is none
    """
    query = request.query
    most = request.services.conf.api.max_limit
    given = query.get('limit')
    if given in (None, ''):
        limit = most
    elif given is not None and given.isascii() and given.isdigit() and int(given) > 0:
        limit = min(int(given), most)
    else:
        raise errors.Invalid(f"Invalid input for field 'limit': {given!r} is not positive")
    key = query.get('sort_key') or sort_key
    if sort_keys is not None and key not in sort_keys:
        raise errors.Invalid(
            f"Invalid input for field 'sort_key': {key!r} is not one of {sorted(sort_keys)}"
        )
    direction = query.get('sort_dir') or 'asc'
    if direction not in ('asc', 'desc'):
        raise errors.Invalid(
            f"Invalid input for field 'sort_dir': {direction!r} is not one of ['asc', 'desc']"
        )
    return Page(limit, query.get('marker') or None, key, direction)


def next_link(request: Request, resource: str, page: Page, uuids: list[str]) -> str | None:
    """Return the URL of the page after this one, with everything else that was asked.

    :param uuids: of the items of this page; a short page is the last
    """
    if len(uuids) < page.limit:
        return None
    query = {
        **request.query,
        'sort_key': page.sort_key,
        'sort_dir': page.sort_dir,
        'limit': page.limit,
        'marker': uuids[-1],
    }
    return f'{request.base_url}/v1/{resource}/?{urllib.parse.urlencode(query)}'


def sliced(
    items: list[typing.Any], page: Page, uuid: typing.Callable[[typing.Any], str]
) -> list[typing.Any]:
    """Return a page of a short list that is at hand as a whole and sorted.

    :param uuid: what the marker names of an item
    :raises Invalid: the marker names none
    """
    if page.sort_dir == 'desc':
        items = items[::-1]
    if page.marker is not None:
        names = [uuid(item) for item in items]
        if page.marker not in names:
            raise errors.Invalid(f'Marker {page.marker!r} could not be found.')
        items = items[names.index(page.marker) + 1 :]
    return items[: page.limit]
