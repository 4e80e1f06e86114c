"""Names of images, archives of Glance, and fetching."""

import io
import json
import random
import re
import tarfile
import types

import pytest

from zun_agent import errors
from zun_agent.images import Images, archive
from zun_agent.images.docker import DockerImages, parse
from zun_agent.images.glance import GlanceImages

DIGEST = 'sha256:' + 'a' * 64
LIMIT = 1 << 20
CONF = types.SimpleNamespace(container=types.SimpleNamespace(max_glance_image_size=LIMIT >> 20))


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('alpine', ('docker.io/library/alpine', 'latest')),
        ('alpine:3.20', ('docker.io/library/alpine', '3.20')),
        ('library/alpine', ('docker.io/library/alpine', 'latest')),
        ('docker.io/alpine', ('docker.io/library/alpine', 'latest')),
        ('kubernetes/pause', ('docker.io/kubernetes/pause', 'latest')),
        ('quay.io/a/b/c:x', ('quay.io/a/b/c', 'x')),
        ('localhost/x', ('localhost/x', 'latest')),
        ('host:5000/x', ('host:5000/x', 'latest')),
        ('host:5000/x:1', ('host:5000/x', '1')),
        ('index.docker.io/team/x', ('docker.io/team/x', 'latest')),
        ('team/zun-sandbox-image', ('docker.io/team/zun-sandbox-image', 'latest')),
        (f'alpine@{DIGEST}', ('docker.io/library/alpine', DIGEST)),
        (f'quay.io/x:1@{DIGEST}', ('quay.io/x', DIGEST)),
        # What Docker would take for an image's id is a name like any other.
        ('deadbeef', ('docker.io/library/deadbeef', 'latest')),
        (DIGEST, ('docker.io/library/sha256', 'a' * 64)),
    ],
)
def test_names(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize(
    'name',
    ['', 'Alpine', 'a b', 'x:', 'x@', 'x@sha256:1', '-x', 'x:-', '/x', 'x/', 'a//b', '../x',
     'zun.invalid/x', 'ZUN.invalid/x:glance', 'x:' + 'y' * 129, 'x\n',
     'zun-sandbox-image:x-y', 'docker.io/zun-sandbox-image:x', f'zun-sandbox-image@{DIGEST}',
     'index.docker.io/library/zun-snapshot-image:x-y', 'zun-snapshot-image'],
)  # fmt: skip
def test_names_of_nothing(name):
    with pytest.raises(errors.Invalid):
        parse(name)


def test_a_digest_is_referred_to_as_one():
    driver = DockerImages(None, None, None)
    assert driver.reference(f'x@{DIGEST}', None) == f'docker.io/library/x@{DIGEST}'


def test_an_unknown_driver():
    with pytest.raises(errors.Invalid, match='there are docker'):
        Images({'docker': None}).driver('nosuch')


def tar(members, mode='w'):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as target:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.CHRTYPE
            data = content or b''
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    stream.seek(0)
    return stream


def manifest(*entries):
    return json.dumps(entries).encode()


ENTRY = {'Config': 'c.json', 'RepoTags': ['alpine:latest'], 'Layers': ['l/layer.tar']}


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
def test_an_archives_own_tags_are_not_believed(mode):
    saved = tar(
        {
            'c.json': b'{}',
            'l/layer.tar': b'x' * 1000,
            'repositories': b'{"alpine":{"latest":"l"}}',
            './manifest.json': manifest(ENTRY),
        },
        mode,
    )
    result = io.BytesIO(b''.join(archive.renamed(saved, 'zun.invalid/id:glance', LIMIT)))
    with tarfile.open(fileobj=result) as found:
        assert found.getnames() == ['c.json', 'l/layer.tar', 'manifest.json']
        assert found.extractfile('l/layer.tar').read() == b'x' * 1000
        (entry,) = json.load(found.extractfile('manifest.json'))
    assert entry == {**ENTRY, 'RepoTags': ['zun.invalid/id:glance']}


def described(headers=None, **changes):
    """Return an archive with one file of which a header before it says more."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w', format=tarfile.PAX_FORMAT) as target:
        member = tarfile.TarInfo('x')
        member.pax_headers = headers or {'comment': 'y'}
        target.addfile(member)
    data = bytearray(stream.getvalue())
    first = tarfile.TarInfo.frombuf(bytes(data[:512]), 'utf-8', 'strict')
    for name, value in changes.items():
        setattr(first, name, value)
    data[:512] = first.tobuf(tarfile.GNU_FORMAT)
    return bytes(data)


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (described(size=1 << 30), 'header'),
        (described(size=-512), 'header'),
        (described({'size': '-1024'}), 'below zero'),
        (described({'GNU.sparse.major': '1', 'GNU.sparse.minor': '0'}), 'sparse'),
        (described(type=tarfile.GNUTYPE_SPARSE), 'sparse'),
    ],
)
def test_an_archive_whose_headers_lie(data, reason):
    with pytest.raises(errors.Invalid, match=reason):
        list(archive.renamed(io.BytesIO(data), 'x:y', LIMIT))


@pytest.mark.parametrize(
    'saved',
    [
        io.BytesIO(b''),
        io.BytesIO(b'QFI\xfb' + b'x' * 2000),
        io.BytesIO(b'text'),
        tar({'bin/sh': b'x'}),
        tar({'manifest.json': b'{'}),
        tar({'manifest.json': b'null'}),
        tar({'manifest.json': manifest()}),
        tar({'manifest.json': manifest(ENTRY, ENTRY)}),
        tar({'manifest.json': manifest(ENTRY), 'dev/console': None}),
        io.BytesIO(tar({'manifest.json': manifest(ENTRY), 'x': b'y' * 5000}).read()[:2000]),
    ],
)
def test_what_is_no_archive_of_an_image(saved):
    with pytest.raises(errors.Invalid):
        list(archive.renamed(saved, 'x:y', LIMIT))


def test_an_archive_that_is_damaged_in_compression():
    content = random.Random(7).randbytes(200_000)
    data = bytearray(tar({'manifest.json': manifest(ENTRY), 'x': content}, 'w:gz').read())
    # A block whose kind there is not, where the decompressor meets it after the list.
    data[100_000:] = b'\xff' * (len(data) - 100_000)
    with pytest.raises(errors.Invalid):
        list(archive.renamed(io.BytesIO(bytes(data)), 'x:y', LIMIT))


class Glance:
    """As far as the driver asks it."""

    def __init__(self, *images):
        self.images = images

    def get(self, path, params=None):
        assert not re.search(r'[?#]|/\.\.?(/|$)', path)
        if params is not None:
            return {'images': [found for found in self.images if found['name'] == params['name']]}
        for found in self.images:
            if path == f'/images/{found["id"]}':
                return found
        raise errors.NotFound('none')


def image(**fields):
    known = {'id': '1', 'name': 'mine', 'status': 'active', 'container_format': 'docker'}
    return known | fields


@pytest.mark.parametrize(
    ('images', 'name', 'outcome'),
    [
        ([image()], '1', '1'),
        ([image()], 'mine', '1'),
        ([image()], 'yours', errors.ImageNotFound),
        ([image(name='mine/../1?x#y')], 'mine/../1?x#y', '1'),
        ([image(name='..')], '..', '1'),
        ([image(container_format='bare', disk_format='qcow2')], 'mine', errors.Invalid),
        ([image(status='queued')], '1', errors.ImageNotFound),
        ([image(container_format='bare'), image(id='2')], 'mine', '2'),
        ([image(name='a?b')], 'a?b', '1'),
        ([image()], '?limit=1', errors.ImageNotFound),
    ],
)
def test_whose_image_of_glance(images, name, outcome):
    cloud = types.SimpleNamespace(as_user=lambda context, service: Glance(*images))
    driver = GlanceImages(CONF, None, cloud)
    if isinstance(outcome, str):
        assert driver.resolve(None, name) == outcome
    else:
        with pytest.raises(outcome):
            driver.resolve(None, name)


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
@pytest.mark.parametrize(
    ('members', 'reason'),
    [
        ({'l/layer.tar': bytes(LIMIT)}, 'larger than 1 MiB'),
        ({str(number): bytes(LIMIT // 100) for number in range(101)}, 'larger than 1 MiB'),
        ({str(number): b'' for number in range(archive.MAX_MEMBERS)}, 'more than 10000 files'),
    ],
    ids=['one', 'together', 'many'],
)
@pytest.mark.parametrize('first', [True, False])
def test_an_archive_that_would_fill_the_host(members, reason, mode, first):
    """Wherever its list of contents is."""
    listed = {'manifest.json': manifest(ENTRY)}
    saved = tar({**listed, **members} if first else {**members, **listed}, mode)
    with pytest.raises(errors.Invalid, match=reason):
        for _ in archive.renamed(saved, 'x:y', LIMIT):
            pass


class Engine:
    """Docker, as far as images are loaded into it."""

    def __init__(self):
        self.loaded = {}

    def image_id(self, reference):
        return self.loaded.get(reference)

    def load(self, chunks):
        with tarfile.open(fileobj=io.BytesIO(b''.join(chunks))) as found:
            for entry in json.load(found.extractfile('manifest.json')):
                self.loaded.update(dict.fromkeys(entry['RepoTags'], 'sha256:1'))


class Files:
    """Glance's files, by their paths; says which of its downloads were ended."""

    def __init__(self, **files):
        self.files = {f'/images/{name}/file': content for name, content in files.items()}
        self.asked = []
        self.ended = 0

    def download(self, path):
        self.asked.append(path)
        if path not in self.files:
            raise errors.NotFound(path)
        content = self.files[path]
        try:
            for start in range(0, len(content), 1000):
                yield content[start : start + 1000]
        finally:
            self.ended += 1


def fetching(files):
    engine = Engine()
    cloud = types.SimpleNamespace(as_service=lambda service: files)
    return engine, GlanceImages(CONF, engine, cloud)


def test_an_image_is_fetched_once():
    files = Files(one=tar({'manifest.json': manifest(ENTRY)}).read())
    engine, driver = fetching(files)
    for _ in range(2):
        driver.fetch('mine', 'one')
    assert engine.loaded == {'zun.invalid/one:glance': 'sha256:1'}
    assert files.asked == ['/images/one/file']


@pytest.mark.parametrize(
    ('name', 'path'),
    [
        ('a/../../users', '/images/a%2F..%2F..%2Fusers/file'),
        ('a?limit=1#x', '/images/a%3Flimit%3D1%23x/file'),
        ('a b%2F', '/images/a%20b%252F/file'),
        ('..', None),
        ('.', None),
    ],
)
def test_a_name_leads_to_no_other_place_in_glance(name, path):
    """One that was stored before names were resolved has nothing but the user's word."""
    files = Files()
    _, driver = fetching(files)
    with pytest.raises(errors.ImageNotFound):
        driver.fetch(name, None)
    assert files.asked == ([path] if path else [])


def test_a_download_that_would_fill_the_host_is_broken_off():
    files = Files(one=bytes(LIMIT + 1))
    engine, driver = fetching(files)
    with pytest.raises(errors.Invalid, match='mine cannot be used: it is larger than 1 MiB'):
        driver.fetch('mine', 'one')
    assert files.ended == 1
    assert not engine.loaded
