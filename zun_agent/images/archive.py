"""Archives of ``docker save``: whose, is what they say, not to be believed.

An archive names the tags that its images get. One that a tenant made could so replace
any image on the host, for everybody; and one can hold no image at all and be loaded
with success. So the list of contents is replaced on the way to Docker.
"""

from __future__ import annotations

import json
import lzma
import tarfile
import typing
import zlib
from collections.abc import Iterable, Iterator

from zun_agent import errors

MANIFEST = 'manifest.json'
MAX_MANIFEST = 1024 * 1024
MAX_MEMBERS = 10_000
_CHUNK = 1024 * 1024

# The list of contents of old archives, and of the OCI layout that newer ones also are.
_OTHER_LISTS = frozenset({'repositories', 'index.json', 'oci-layout'})


class _Member(tarfile.TarInfo):
    """A member whose header is not read into memory however long it says to be."""

    _LONG = (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )

    def _proc_member(self, source: tarfile.TarFile) -> typing.Any:
        # A size below zero leads back to a member that was read before, for ever.
        if self.size < 0 or (self.type in self._LONG and self.size > MAX_MANIFEST):
            raise errors.Invalid(f'it has a header or a file of {self.size} bytes')
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        found = super()._proc_member(source)  # type: ignore[misc]
        if found.size < 0:
            raise errors.Invalid(f'{found.name} has a size below zero')
        return found

    def _refuse_sparse(self, *_: typing.Any) -> typing.NoReturn:
        raise errors.Invalid('it has a sparse file, which Docker does not write')

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def renamed(saved: typing.IO[bytes], reference: str, limit: int) -> Iterator[bytes]:
    """Yield the archive, so that Docker loads its one image under `reference` alone.

    :param saved: the archive, compressed or not, which can be read twice
    :param limit: bytes that its members may have together, unpacked
    :raises errors.Invalid: it is no archive, or not of exactly one image, or larger
    """
    try:
        with tarfile.open(fileobj=saved, mode='r:*', tarinfo=_Member) as source:
            contents = manifest(_bounded(source, limit), source)
        contents['RepoTags'] = [reference]
        saved.seek(0)
        with tarfile.open(fileobj=saved, mode='r:*', tarinfo=_Member) as source:
            yield from _copied(_bounded(source, limit), source)
        yield from _file(MANIFEST, json.dumps([contents]).encode())
        yield bytes(2 * tarfile.BLOCKSIZE)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise errors.Invalid(f'it is not an archive of docker save: {error}') from error


def _bounded(source: tarfile.TarFile, limit: int) -> Iterator[tarfile.TarInfo]:
    """Yield the archive's members, as long as they are not too many or too large.

    A few kilobytes of compressed zeros unpack to as much as there is room for on the host.
    """
    total = 0
    for number, member in enumerate(source, 1):
        total += member.size
        if total > limit:
            raise errors.Invalid(f'unpacked it is larger than {limit >> 20} MiB')
        if number > MAX_MEMBERS:
            raise errors.Invalid(f'it has more than {MAX_MEMBERS} files')
        yield member


def manifest(members: Iterable[tarfile.TarInfo], source: tarfile.TarFile) -> dict[str, typing.Any]:
    """Return the one entry in an archive's list of contents.

    :raises errors.Invalid: there is no list, or not one entry in it
    """
    for member in members:
        if _name(member) != MANIFEST:
            continue
        stream = source.extractfile(member) if member.size <= MAX_MANIFEST else None
        if stream is None:
            break
        try:
            entries = json.load(stream)
        except ValueError as error:
            raise errors.Invalid(f'its {MANIFEST} is not JSON: {error}') from error
        if not (isinstance(entries, list) and len(entries) == 1 and isinstance(entries[0], dict)):
            raise errors.Invalid('it must hold exactly one image')
        return {key: entries[0].get(key) for key in ('Config', 'Layers')}
    raise errors.Invalid(f'it has no {MANIFEST}: was it made by docker save?')


def _copied(members: Iterable[tarfile.TarInfo], source: tarfile.TarFile) -> Iterator[bytes]:
    for member in members:
        if _name(member) in _OTHER_LISTS | {MANIFEST}:
            continue
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            raise errors.Invalid(f'{member.name} is neither a file nor a directory')
        stream = source.extractfile(member) if member.isreg() else None
        yield member.tobuf(tarfile.PAX_FORMAT)
        if stream is not None:
            while chunk := stream.read(_CHUNK):
                yield chunk
            yield bytes(-member.size % tarfile.BLOCKSIZE)


def _file(name: str, content: bytes) -> Iterator[bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    yield member.tobuf(tarfile.PAX_FORMAT)
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix('./').strip('/')
