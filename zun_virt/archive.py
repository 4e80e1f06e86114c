"""Archives of images, which are a tenant's: read with care, and written anew.

Docker would believe one what it says of tags, and would make volumes and set variables for
every container that joins the sandbox, so it gets a new archive, made of the parts that are
wanted.
"""

from __future__ import annotations

import io
import json
import lzma
import pathlib
import posixpath
import re
import tarfile
import typing
import zlib

from zun_virt import snapshot
from zun_virt.snapshot import ArchiveError

MAX_ARCHIVE = 2 << 30
"""Bytes that the members of an archive may have together when unpacked."""

_USERS = (
    'Cmd',
    'Entrypoint',
    'Env',
    'ExposedPorts',
    'Shell',
    'StopSignal',
    'User',
    'Volumes',
    'WorkingDir',
)
"""What of an image's configuration is its user's."""

_MAX_DOCUMENT = 4 << 20
_MAX_HEADER = 1 << 20
_MAX_MEMBERS = 10_000

_UNREADABLE = (
    tarfile.TarError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
)
"""What Python's archive and compression modules raise on what they cannot read."""


class _Member(tarfile.TarInfo):
    """A member whose header is not read into memory however long it says to be."""

    _LONG = (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )

    def _proc_member(self, archive: tarfile.TarFile) -> typing.Any:
        # A size below zero leads back to a member that was read before, for ever.
        if self.size < 0 or (self.type in self._LONG and self.size > _MAX_HEADER):
            raise ArchiveError(f'it has a header or a file of {self.size} bytes')
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        return super()._proc_member(archive)  # type: ignore[misc]

    def _refuse_sparse(self, *_: typing.Any) -> typing.NoReturn:
        raise ArchiveError('it has a sparse file, which no engine writes')

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Picture(typing.NamedTuple):
    """One image of an archive that is to be written.

    :ivar config: its configuration, made safe
    :ivar layers: the archive's members that hold them
    """

    tag: str
    config: dict[str, typing.Any]
    layers: list[tarfile.TarInfo]


def rewrite(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    tag: str,
    architecture: str,
    largest: int = MAX_ARCHIVE,
) -> None:
    """Write a new archive with what another holds: one image, or a snapshot's.

    :param tag: of the sandbox's image; that of a container in a snapshot follows from it
    :param architecture: that images must have, in the words of images
    :param largest: bytes that the members of a snapshot may have together when unpacked
    :raises ArchiveError: the source is not an archive of usable images
    """
    try:
        with tarfile.open(source, 'r:*', tarinfo=_Member) as archive:
            members = _members(archive, largest)
            pictures = list(_pictures(archive, members, tag, architecture))
            with tarfile.open(target, 'w') as fresh:
                _write(archive, fresh, pictures)
    except _UNREADABLE as error:
        raise ArchiveError(f'not an archive of an image: {error}') from error


def _pictures(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], tag: str, architecture: str
) -> typing.Iterator[_Picture]:
    """Yield the images of an archive, the sandbox's own first."""

    def picture(entry: dict[str, typing.Any], tag: str, *, users: bool) -> _Picture:
        config = _document(archive, members, entry['Config'])
        make = users_config if users else safe_config
        layers = [_member(members, name) for name in entry['Layers']]
        return _Picture(tag, make(config, architecture, len(layers)), layers)

    manifest = _document(archive, members, 'manifest.json')
    if snapshot.CONTENTS not in members:
        yield picture(_entry(manifest), tag, users=False)
        return
    contents = snapshot.read(_document(archive, members, snapshot.CONTENTS))
    if not isinstance(manifest, list):
        raise ArchiveError('its manifest is not a list')
    entries = {e.get('Config'): _entry([e]) for e in manifest if isinstance(e, dict)}
    try:
        own = picture(entries[contents.sandbox], tag, users=False)
        tags = {ident: snapshot.container_tag(tag, ident) for ident in contents.containers}
        own.config['config']['Labels'] = {
            snapshot.LABEL: json.dumps({'instance': contents.instance, 'images': tags})
        }
        yield own
        for ident, config in contents.containers.items():
            yield picture(entries[config], tags[ident], users=True)
    except KeyError as error:
        raise ArchiveError(f'it lacks the image {error}') from error


def _write(archive: tarfile.TarFile, fresh: tarfile.TarFile, pictures: list[_Picture]) -> None:
    """Write images, each layer once however many of them have it."""
    names: dict[str, str] = {}
    manifest = []
    for number, picture in enumerate(pictures):
        for member in picture.layers:
            if member.name not in names:
                names[member.name] = f'layer{len(names)}.tar'
                info = tarfile.TarInfo(names[member.name])
                info.size = member.size
                fresh.addfile(info, archive.extractfile(member))
        config = f'config{number or ""}.json'
        _add(fresh, config, json.dumps(picture.config))
        layers = [names[member.name] for member in picture.layers]
        manifest.append({'Config': config, 'RepoTags': [picture.tag], 'Layers': layers})
    _add(fresh, 'manifest.json', json.dumps(manifest))


def safe_config(config: typing.Any, architecture: str, layers: int) -> dict[str, typing.Any]:
    """Return of an image's configuration what a sandbox takes: its program and its layers.

    :param layers: that its manifest names
    :raises ArchiveError: it is not for this machine, or not whole
    """
    kept = _kept(config, architecture, layers, ('Entrypoint', 'Cmd', 'WorkingDir'))
    if not kept['config'].keys() & {'Entrypoint', 'Cmd'}:
        raise ArchiveError('it names no program to run')
    return kept


def users_config(config: typing.Any, architecture: str, layers: int) -> dict[str, typing.Any]:
    """Return of the configuration of a user's container what the user decides.

    Its labels, among which ours are, are given anew.

    :param layers: that its manifest names
    :raises ArchiveError: it is not for this machine, or not whole
    """
    return _kept(config, architecture, layers, _USERS)


def _kept(
    config: typing.Any, architecture: str, layers: int, keys: typing.Iterable[str]
) -> dict[str, typing.Any]:
    if not isinstance(config, dict) or not isinstance(config.get('config') or {}, dict):
        raise ArchiveError('its configuration is not an object')
    if config.get('os') != 'linux':
        raise ArchiveError(f'it is for the operating system {config.get("os")!r}, not linux')
    if config.get('architecture') != architecture:
        raise ArchiveError(f'it is for {config.get("architecture")!r}, this host {architecture}')
    rootfs = config.get('rootfs')
    digests = rootfs.get('diff_ids') if isinstance(rootfs, dict) else None
    if not isinstance(digests, list) or len(digests) != layers:
        raise ArchiveError('its configuration names other layers than its manifest')
    if not all(isinstance(d, str) and re.fullmatch(r'sha256:[0-9a-f]{64}', d) for d in digests):
        raise ArchiveError('its configuration names a layer that is not a SHA-256 digest')
    run = config.get('config') or {}
    return {
        'architecture': architecture,
        'os': 'linux',
        'config': {key: run[key] for key in keys if run.get(key)},
        'rootfs': {'type': 'layers', 'diff_ids': digests},
        # As many entries as layers, which some engines check.
        'history': [{'created_by': 'zun-virt'}] * layers,
    }


def _members(archive: tarfile.TarFile, largest: int) -> dict[str, tarfile.TarInfo]:
    """Return the archive's members by name, none of which could leave it."""
    found: dict[str, tarfile.TarInfo] = {}
    total = 0
    for number, member in enumerate(archive, 1):
        name = posixpath.normpath(member.name)
        if name.startswith(('/', '..')):
            raise ArchiveError(f'it has a member outside of it: {member.name!r}')
        if not (member.isfile() or member.isdir() or member.issym()):
            raise ArchiveError(f'its member {member.name!r} is no file')
        if member.size < 0:
            raise ArchiveError(f'its member {member.name!r} has a size below zero')
        total += member.size
        if total > max(largest, MAX_ARCHIVE) or number > _MAX_MEMBERS:
            raise ArchiveError(f'it has more than {largest >> 20} MiB or {_MAX_MEMBERS} files')
        found[name] = member
    if total > MAX_ARCHIVE and snapshot.CONTENTS not in found:
        raise ArchiveError(f'it has more than {MAX_ARCHIVE >> 20} MiB')
    return found


def _member(members: dict[str, tarfile.TarInfo], name: typing.Any) -> tarfile.TarInfo:
    """Return a file of the archive; Docker writes a layer that occurs again as a link."""
    if not isinstance(name, str):
        raise ArchiveError('its manifest names a file that is not a string')
    key = posixpath.normpath(name)
    member = members.get(key)
    if member is not None and member.issym():
        key = posixpath.normpath(posixpath.join(posixpath.dirname(key), member.linkname))
        member = members.get(key)
    if member is None or not member.isfile():
        raise ArchiveError(f'it lacks the file {name!r}')
    return member


def _document(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: typing.Any
) -> typing.Any:
    member = _member(members, name)
    if member.size > _MAX_DOCUMENT:
        raise ArchiveError(f'its file {name!r} is too large')
    stream = archive.extractfile(member)
    try:
        return json.loads(stream.read() if stream else b'')
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f'its file {name!r} is not JSON: {error}') from error


def _entry(manifest: typing.Any) -> dict[str, typing.Any]:
    if not isinstance(manifest, list) or len(manifest) != 1:
        raise ArchiveError('it does not hold exactly one image')
    entry = manifest[0]
    if not isinstance(entry, dict) or not isinstance(entry.get('Layers'), list):
        raise ArchiveError('its manifest is not one of an image')
    if not entry['Layers'] or 'Config' not in entry:
        raise ArchiveError('its manifest names no layers or no configuration')
    return entry


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
