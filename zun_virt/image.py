"""The image that a sandbox runs: from Glance, or as configured.

An archive in Glance is a tenant's.  Docker would believe it what it says of tags, and
would make volumes and set variables for every container that joins the sandbox, so it
gets a new archive, made of the parts that are wanted.
"""

from __future__ import annotations

import collections
import io
import json
import lzma
import pathlib
import posixpath
import re
import tarfile
import tempfile
import threading
import typing
import zlib

from nova import exception
from oslo_log import log as logging

from zun_virt import host

LOG = logging.getLogger(__name__)

REPOSITORY = 'zun-sandbox-image'
"""Repository, known to this machine alone, that holds the images taken from Glance."""

MAX_ARCHIVE = 2 << 30
"""Bytes that the members of an archive may have together when unpacked."""

_UNKNOWN = 'unknown'
_MAX_DOCUMENT = 4 << 20
_MAX_HEADER = 1 << 20
_MAX_MEMBERS = 10_000

_ARCHITECTURES = {
    'x86_64': 'amd64',
    'aarch64': 'arm64',
    'armv7l': 'arm',
    'i686': '386',
}
"""Names of architectures: the kernel's, and those of images where they differ."""


_UNREADABLE = (
    tarfile.TarError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
)
"""What Python's archive and compression modules raise on what they cannot read."""


class ArchiveError(Exception):
    """The archive is not what a sandbox can be made of; the message says why."""


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


class Images:
    """Finds a sandbox's image in Docker, and brings it there once."""

    def __init__(
        self,
        docker: host.Host,
        glance: typing.Any,
        *,
        scratch: pathlib.Path,
        architecture: str,
        configured: str | None,
    ) -> None:
        """Take images from `glance`, nova's image API, unless one is configured.

        :param scratch: an existing directory for files that nobody else shall read
        :param architecture: of the machine, as its kernel names it
        :param configured: the name in Docker of the image for every sandbox
        """
        self._docker = docker
        self._glance = glance
        self._scratch = scratch
        self._architecture = _ARCHITECTURES.get(architecture, architecture)
        self._configured = configured
        self._locks: collections.defaultdict[str, threading.Lock] = collections.defaultdict(
            threading.Lock
        )
        self._guard = threading.Lock()

    def prepare(self) -> None:
        """Have the configured image at hand.

        :raises zun_virt.host.HostError: it cannot be pulled
        """
        if self._configured:
            self._once(self._configured, lambda: self._docker.pull(str(self._configured)))

    def ensure(self, context: typing.Any, image_meta: typing.Any, trusted_certs: typing.Any) -> str:
        """Return Docker's id of the image for a server, having fetched it if need be.

        :param image_meta: nova's description of the server's image
        :raises nova.exception.ImageUnacceptable: a sandbox cannot be made of it
        :raises zun_virt.host.HostError: Docker cannot
        """
        check(image_meta)
        if self._configured:
            name = self._configured
            return self._once(name, lambda: self._docker.pull(name))
        tag = image_tag(image_meta)
        if tag.endswith(_UNKNOWN):
            # Of a server that exists, nova does not keep the checksum of its image.
            found = self._docker.image_like(f'{REPOSITORY}:{image_meta.id}-*')
            if found:
                return found
        return self._once(tag, lambda: self._fetch(context, image_meta, trusted_certs, tag))

    def _once(self, name: str, fetch: typing.Callable[[], str]) -> str:
        """Return the id of an image, fetched by one of the threads that want it."""
        found = self._docker.image_id(name)
        if found:
            return found
        with self._guard:
            lock = self._locks[name]
        with lock:
            return self._docker.image_id(name) or fetch()

    def _fetch(
        self, context: typing.Any, image_meta: typing.Any, trusted_certs: typing.Any, tag: str
    ) -> str:
        LOG.info('Fetching image %s from Glance into %s', image_meta.id, tag)
        with tempfile.TemporaryDirectory(prefix='zun-image-', dir=self._scratch) as directory:
            received = pathlib.Path(directory, 'received')
            rewritten = pathlib.Path(directory, 'rewritten')
            self._glance.download(
                context, image_meta.id, dest_path=str(received), trusted_certs=trusted_certs
            )
            try:
                rewrite(received, rewritten, tag=tag, architecture=self._architecture)
                with rewritten.open('rb') as archive:
                    return self._docker.load(archive, tag)
            except (ArchiveError, host.ImageRefused) as error:
                raise exception.ImageUnacceptable(
                    image_id=image_meta.id, reason=str(error)
                ) from error


def check(image_meta: typing.Any) -> None:
    """Refuse an image that is not meant for sandboxes.

    :raises nova.exception.ImageUnacceptable: it is not
    """

    def refuse(reason: str) -> typing.NoReturn:
        known = image_meta.obj_attr_is_set('id') and image_meta.id
        raise exception.ImageUnacceptable(image_id=known or '(none)', reason=reason)

    if image_meta.properties.get('img_hv_type') != 'docker':
        refuse('this host runs sandboxes, for images with the property img_hv_type=docker')
    if not image_meta.obj_attr_is_set('id') or not image_meta.id:
        refuse('a sandbox is made from an image')
    form = image_meta.container_format if image_meta.obj_attr_is_set('container_format') else None
    if form != 'docker':
        refuse(f'its container_format is {form}, not docker')


def image_tag(image_meta: typing.Any) -> str:
    """Return the name in Docker for an image of Glance: its id, and that of its content."""
    content = image_meta.checksum if image_meta.obj_attr_is_set('checksum') else None
    return f'{REPOSITORY}:{image_meta.id}-{content or _UNKNOWN}'


def rewrite(source: pathlib.Path, target: pathlib.Path, *, tag: str, architecture: str) -> None:
    """Write a new archive with the one image of another, named `tag`.

    :param architecture: that the image must have, in the words of images
    :raises ArchiveError: the source is not an archive of one usable image
    """
    try:
        with tarfile.open(source, 'r:*', tarinfo=_Member) as archive:
            members = _members(archive)
            entry = _entry(_document(archive, members, 'manifest.json'))
            config = _document(archive, members, entry['Config'])
            document = json.dumps(safe_config(config, architecture, len(entry['Layers'])))
            layers = [_member(members, name) for name in entry['Layers']]
            names = [f'layer{number}.tar' for number in range(len(layers))]
            manifest = [{'Config': 'config.json', 'RepoTags': [tag], 'Layers': names}]
            with tarfile.open(target, 'w') as fresh:
                for name, member in zip(names, layers, strict=True):
                    info = tarfile.TarInfo(name)
                    info.size = member.size
                    fresh.addfile(info, archive.extractfile(member))
                _add(fresh, 'config.json', document)
                _add(fresh, 'manifest.json', json.dumps(manifest))
    except _UNREADABLE as error:
        raise ArchiveError(f'not an archive of an image: {error}') from error


def safe_config(config: typing.Any, architecture: str, layers: int) -> dict[str, typing.Any]:
    """Return of an image's configuration what a sandbox takes: its program and its layers.

    :param layers: that its manifest names
    :raises ArchiveError: it is not for this machine, or not whole
    """
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
    kept = {key: run[key] for key in ('Entrypoint', 'Cmd', 'WorkingDir') if run.get(key)}
    if not kept.keys() & {'Entrypoint', 'Cmd'}:
        raise ArchiveError('it names no program to run')
    return {
        'architecture': architecture,
        'os': 'linux',
        'config': kept,
        'rootfs': {'type': 'layers', 'diff_ids': digests},
        # As many entries as layers, which some engines check.
        'history': [{'created_by': REPOSITORY}] * layers,
    }


def _members(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
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
        if total > MAX_ARCHIVE or number > _MAX_MEMBERS:
            raise ArchiveError(f'it has more than {MAX_ARCHIVE >> 20} MiB or {_MAX_MEMBERS} files')
        found[name] = member
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
