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
     'zun.invalid/x', 'ZUN.invalid/x:glance', 'x:' + 'y' * 129, 'x\n'],
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
    result = io.BytesIO(b''.join(archive.renamed(saved, 'zun.invalid/id:glance')))
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
        list(archive.renamed(io.BytesIO(data), 'x:y'))


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
        list(archive.renamed(saved, 'x:y'))


def test_an_archive_that_is_damaged_in_compression():
    content = random.Random(7).randbytes(200_000)
    data = bytearray(tar({'manifest.json': manifest(ENTRY), 'x': content}, 'w:gz').read())
    # A block whose kind there is not, where the decompressor meets it after the list.
    data[100_000:] = b'\xff' * (len(data) - 100_000)
    with pytest.raises(errors.Invalid):
        list(archive.renamed(io.BytesIO(bytes(data)), 'x:y'))


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
    driver = GlanceImages(None, None, cloud)
    if isinstance(outcome, str):
        assert driver.resolve(None, name) == outcome
    else:
        with pytest.raises(outcome):
            driver.resolve(None, name)
