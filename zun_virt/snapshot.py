"""What a snapshot of a sandbox holds: its containers as they were, and which is which.

It is an archive as ``docker save`` writes it, of the sandbox's image and one image for each
container, which holds what the container had written.  A table of contents is added::

    {"version": 1, "instance": <server>, "sandbox": <configuration of its image>,
     "containers": {<id in the container API>: <configuration of its image>, ...}}

Volumes are not in it, nor is what ran: the containers' own records tell that.
"""

from __future__ import annotations

import json
import tarfile
import typing
import uuid
from collections.abc import Iterable, Iterator, Mapping

from zun_virt.sandbox import SNAPSHOT_IMAGES

CONTENTS = 'zun-snapshot.json'
LABEL = 'org.openstack.zun.snapshot'
"""Label of a sandbox image that came from a snapshot, written by us: its containers' images."""

_VERSION = 1
_MAX_CONTAINERS = 1000
_CHUNK = 1 << 20
_LISTS = frozenset({'manifest.json', 'repositories', 'index.json', 'oci-layout'})


class ArchiveError(Exception):
    """The archive is not what a sandbox can be made of; the message says why."""


class Contents(typing.NamedTuple):
    """A snapshot's table of contents.

    :ivar instance: the server of which it is
    :ivar sandbox: the configuration of the sandbox's image, as the archive names it
    :ivar containers: those of the containers' images, by their ids in the container API
    """

    instance: str
    sandbox: str
    containers: dict[str, str]


def read(document: typing.Any) -> Contents:
    """Return a table of contents, of which nothing is believed.

    :raises ArchiveError: it is none
    """
    if not isinstance(document, dict) or document.get('version') != _VERSION:
        raise ArchiveError(f'its {CONTENTS} is not of version {_VERSION}')
    containers = document.get('containers')
    if not isinstance(containers, dict) or len(containers) > _MAX_CONTAINERS:
        raise ArchiveError(f'its {CONTENTS} names no containers, or too many')
    names = [document.get('sandbox'), *containers.values()]
    if not all(isinstance(name, str) for name in names):
        raise ArchiveError(f'its {CONTENTS} names an image that is not a string')
    return Contents(
        instance=_uuid(document.get('instance')),
        sandbox=names[0],
        containers={_uuid(ident): name for ident, name in containers.items()},
    )


def images(labels: Mapping[str, str], instance_id: str) -> dict[str, str]:
    """Return the images of a server's containers, by container.

    :param labels: of the sandbox's image in Docker
    """
    if LABEL not in labels:
        return {}
    held: dict[str, typing.Any] = json.loads(labels[LABEL])
    # Another server made from it is a new sandbox, in which nobody has asked for containers.
    return dict(held['images']) if held['instance'] == instance_id else {}


def container_tag(tag: str, container_id: str) -> str:
    """Return the name in Docker of the image of a container in a snapshot.

    :param tag: the name of the sandbox's image from it
    """
    return f'{SNAPSHOT_IMAGES}:{tag.partition(":")[2]}-{container_id}'


def described(
    saved: Iterable[bytes], instance_id: str, sandbox: str, containers: Mapping[str, str]
) -> Iterator[bytes]:
    """Yield an archive of ``docker save`` with its table of contents.

    :param saved: the archive, as it comes
    :param sandbox: the tag in it of the sandbox's image
    :param containers: those of the containers' images, by their ids in the container API
    :raises ArchiveError: one of the images is not in it
    """
    manifest: list[dict[str, typing.Any]] = []
    with tarfile.open(fileobj=typing.cast(typing.Any, Readable(saved)), mode='r|') as source:
        for member in source:
            stream = source.extractfile(member) if member.isreg() else None
            name = member.name.removeprefix('./')
            if name in _LISTS:
                if name == 'manifest.json' and stream is not None:
                    manifest = json.load(stream)
                continue
            yield member.tobuf(tarfile.PAX_FORMAT)
            if stream is not None:
                while chunk := stream.read(_CHUNK):
                    yield chunk
                yield bytes(-member.size % tarfile.BLOCKSIZE)
    configs = {tag: entry['Config'] for entry in manifest for tag in entry.get('RepoTags') or ()}
    try:
        contents = {
            'version': _VERSION,
            'instance': instance_id,
            'sandbox': configs[sandbox],
            'containers': {ident: configs[tag] for ident, tag in containers.items()},
        }
    except KeyError as error:
        raise ArchiveError(f'the engine left the image {error} out') from error
    # Whoever loads it as it is gets no tags from it.
    yield from _file('manifest.json', [{**entry, 'RepoTags': None} for entry in manifest])
    yield from _file(CONTENTS, contents)
    yield bytes(2 * tarfile.BLOCKSIZE)


class Readable:
    """What comes in pieces, as a file that is read once from its beginning to its end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Read from `chunks`."""
        self._chunks = iter(chunks)
        self._left = b''

    def read(self, size: int = -1) -> bytes:
        """Return that many bytes, fewer only at the end; all for a size below zero."""
        parts, length = [self._left], len(self._left)
        while size < 0 or length < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            length += len(chunk)
        data = b''.join(parts)
        end = len(data) if size < 0 else size
        self._left = data[end:]
        return data[:end]


def _file(name: str, content: typing.Any) -> Iterator[bytes]:
    data = json.dumps(content).encode()
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    yield member.tobuf(tarfile.PAX_FORMAT)
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)


def _uuid(text: typing.Any) -> str:
    try:
        return str(uuid.UUID(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ArchiveError(f'its {CONTENTS} has {text!r} in the place of an id') from error
