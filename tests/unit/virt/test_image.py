"""Archives from Glance: what is taken of a good one, and that a bad one is refused."""

import gzip
import io
import json
import tarfile
import threading

import pytest
from nova import exception

from tests.unit.virt import archives
from tests.unit.virt.conftest import make_image
from zun_virt import archive, host, image, snapshot

TAG = 'zun-sandbox-image:x-y'


def rewritten(tmp_path, data, architecture='amd64'):
    source, target = tmp_path / 'source', tmp_path / 'target'
    source.write_bytes(data)
    archive.rewrite(source, target, tag=TAG, architecture=architecture)
    with tarfile.open(target) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def member(name, kind=tarfile.REGTYPE, link=''):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_a_new_archive_has_what_is_wanted_and_no_more(tmp_path):
    files = rewritten(tmp_path, archives.archive(layers=(b'one', b'two')))
    assert set(files) == {'layer0.tar', 'layer1.tar', 'config.json', 'manifest.json'}
    assert (files['layer0.tar'], files['layer1.tar']) == (b'one', b'two')
    assert json.loads(files['manifest.json']) == [
        {'Config': 'config.json', 'RepoTags': [TAG], 'Layers': ['layer0.tar', 'layer1.tar']}
    ]
    config = json.loads(files['config.json'])
    assert config['config'] == {'Entrypoint': ['/pause']}
    assert len(config['history']) == 2


@pytest.mark.parametrize(
    'run',
    [
        {'Cmd': ['/pause']},
        {'Entrypoint': ['/a'], 'Cmd': ['b'], 'WorkingDir': '/w'},
    ],
)
def test_the_image_says_what_runs(tmp_path, run):
    config = archives.image_config(config=run | {'ExposedPorts': {'80/tcp': {}}, 'OnBuild': ['x']})
    files = rewritten(tmp_path, archives.archive(config=config))
    assert json.loads(files['config.json'])['config'] == run


def test_a_compressed_archive_is_taken(tmp_path):
    assert 'config.json' in rewritten(tmp_path, gzip.compress(archives.archive()))


def test_a_layer_that_occurs_again_as_a_link_is_taken(tmp_path):
    layers = (b'one', b'one')
    manifest = [
        {'Config': 'abc.json', 'RepoTags': None, 'Layers': ['0/layer.tar', 'again/layer.tar']}
    ]
    data = archives.archive(
        config=archives.image_config(layers),
        layers=(b'one',),
        manifest=manifest,
        extra=[member('again/layer.tar', tarfile.SYMTYPE, '../0/layer.tar')],
    )
    files = rewritten(tmp_path, data)
    assert files['layer0.tar'] == b'one'
    assert json.loads(files['manifest.json'])[0]['Layers'] == ['layer0.tar', 'layer0.tar']


def rootfs_export():
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode='w') as tar:
        tar.addfile(member('bin/sh'))
    return output.getvalue()


def entry(**changes):
    return [{'Config': 'abc.json', 'RepoTags': [], 'Layers': ['0/layer.tar']} | changes]


def pax(headers, size=None):
    """Return an archive with a file that a header before it describes."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode='w', format=tarfile.PAX_FORMAT) as tar:
        info = member('x')
        info.pax_headers = headers
        tar.addfile(info)
    data = bytearray(output.getvalue())
    if size is not None:
        header = tarfile.TarInfo.frombuf(bytes(data[:512]), 'utf-8', 'strict')
        header.size = size
        data[:512] = header.tobuf(tarfile.GNU_FORMAT)
    return bytes(data)


def many(count):
    return member('x').tobuf() * count + bytes(1024)


GOOD = archives.archive()

BAD = {
    'empty': b'',
    'zeros': bytes(10240),
    'random': bytes(range(256)) * 40,
    'qcow2': b'QFI\xfb' + bytes(1000),
    'text': b'hello, world\n' * 100,
    'truncated in a header': GOOD[:700],
    'truncated in a layer': GOOD[:514],
    'gzip of garbage': gzip.compress(b'garbage' * 999),
    'truncated gzip': gzip.compress(GOOD)[:200],
    'exported root file system': rootfs_export(),
    'manifest null': archives.archive(manifest=None).replace(b'[{"Config"', b'null      ')[:10240],
    'manifest empty': archives.archive(manifest=[]),
    'manifest of two images': archives.archive(manifest=entry() * 2),
    'manifest of a string': archives.archive(manifest=['x']),
    'no layers': archives.archive(manifest=entry(Layers=[])),
    'layers not a list': archives.archive(manifest=entry(Layers='0/layer.tar')),
    'layer is a number': archives.archive(manifest=entry(Layers=[7])),
    'layer missing': archives.archive(manifest=entry(Layers=['1/layer.tar'])),
    'config missing': archives.archive(manifest=entry(Config='no.json')),
    'config outside': archives.archive(manifest=entry(Config='../../../etc/passwd')),
    'config absolute': archives.archive(manifest=entry(Config='/etc/passwd')),
    'config not JSON': archives.archive(config=b'{'),
    'config nested without end': archives.archive(config=b'[' * 200_000),
    'config a list': archives.archive(config=b'[]'),
    'config without layers': archives.archive(config=archives.image_config(rootfs=None)),
    'config of other layers': archives.archive(config=archives.image_config((b'a', b'b'))),
    'digest of another kind': archives.archive(
        config=archives.image_config(rootfs={'diff_ids': ['md5:1']})
    ),
    'windows': archives.archive(config=archives.image_config(os='windows')),
    'arm64': archives.archive(config=archives.image_config(architecture='arm64')),
    'no program': archives.archive(config=archives.image_config(config={})),
    'member outside': archives.archive(extra=[member('../evil')]),
    'member absolute': archives.archive(extra=[member('/etc/evil')]),
    'device': archives.archive(extra=[member('dev', tarfile.CHRTYPE)]),
    'header of a GiB': pax({'comment': 'y'}, size=1 << 30),
    'header of less than nothing': pax({'comment': 'y'}, size=-512),
    'file of less than nothing': pax({'size': '-1024'}),
    'sparse file': archives.archive(extra=[member('sparse', tarfile.GNUTYPE_SPARSE)]),
    'sparse file of a later kind': pax({'GNU.sparse.major': '1', 'GNU.sparse.minor': '0'}),
    'too many members of one name': many(10_001),
    'hard link': archives.archive(extra=[member('link', tarfile.LNKTYPE, '/etc/passwd')]),
    'layer a link to outside': archives.archive(
        manifest=entry(Layers=['l']), extra=[member('l', tarfile.SYMTYPE, '/etc/passwd')]
    ),
    'layer a link to itself': archives.archive(
        manifest=entry(Layers=['l']), extra=[member('l', tarfile.SYMTYPE, 'l')]
    ),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_archive_is_refused_with_a_reason(tmp_path, name):
    with pytest.raises(snapshot.ArchiveError) as refusal:
        rewritten(tmp_path, BAD[name])
    assert str(refusal.value)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, 'MAX_ARCHIVE', 1000)
    with pytest.raises(snapshot.ArchiveError, match='more than'):
        rewritten(tmp_path, gzip.compress(archives.archive(layers=(bytes(5000),))))


@pytest.mark.parametrize(
    'changes',
    [
        {'properties': {}},
        {'properties': {'img_hv_type': 'kvm'}},
        {'container_format': 'bare'},
    ],
)
def test_an_image_not_meant_for_sandboxes_is_refused(changes):
    with pytest.raises(exception.ImageUnacceptable):
        image.check(make_image(**changes))


def test_a_server_without_an_image_is_refused():
    meta = make_image()
    del meta._obj_id
    with pytest.raises(exception.ImageUnacceptable):
        image.check(meta)


def images(machine, configured=None):
    (machine.root / 'state').mkdir(exist_ok=True)
    return image.Images(
        host.Host(machine.docker, 'host1'),
        machine.glance,
        scratch=machine.root / 'state',
        architecture='x86_64',
        configured=configured,
    )


def test_an_image_is_fetched_once_for_all_who_want_it(machine):
    machine.glance.data[make_image().id] = archives.archive()
    store, found = images(machine), []
    gate = threading.Barrier(8)

    def want():
        gate.wait()
        found.append(store.ensure(None, make_image(), None))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert machine.glance.downloads == [make_image().id]
    assert 'evil:latest' not in machine.docker.images_
    assert machine.leftovers() == {}


def test_another_content_under_the_same_id_is_fetched(machine):
    machine.glance.data[make_image().id] = archives.archive()
    store = images(machine)
    store.ensure(None, make_image(), None)
    store.ensure(None, make_image(checksum='0' * 32), None)
    assert len(machine.glance.downloads) == 2


def test_a_bad_archive_is_the_images_fault(machine):
    machine.glance.data[make_image().id] = b'garbage'
    with pytest.raises(exception.ImageUnacceptable, match=make_image().id):
        images(machine).ensure(None, make_image(), None)
    assert machine.leftovers() == {}


def test_what_docker_finds_damaged_is_the_images_fault(machine, monkeypatch):
    """As an altered layer; see test_on_docker, where it is Docker's own word."""
    machine.glance.data[make_image().id] = archives.archive()
    words = 'invalid diffID for layer 0: expected "sha256:a", got "sha256:b"'
    monkeypatch.setattr(machine.docker, 'load_image', lambda _: iter([{'error': words}]))
    with pytest.raises(exception.ImageUnacceptable, match=f'{make_image().id}.*invalid diffID'):
        images(machine).ensure(None, make_image(), None)
    assert machine.leftovers() == {}


def test_a_configured_image_is_pulled_when_missing(machine):
    machine.docker.images_.clear()
    store = images(machine, 'kubernetes/pause')
    store.prepare()
    assert store.ensure(None, make_image(), None) == 'sha256:pulled'
    assert [call for call in machine.docker.calls if call[0] == 'pull'] == [
        ('pull', 'kubernetes/pause')
    ]
    assert machine.glance.downloads == []


def test_an_error_within_the_stream_of_a_pull_is_noticed(machine):
    with pytest.raises(host.HostError, match='not found'):
        images(machine, 'no/such').prepare()


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('pause', ('pause', 'latest')),
        ('pause:3', ('pause', '3')),
        ('registry:5000/pause', ('registry:5000/pause', 'latest')),
        ('registry:5000/pause:3', ('registry:5000/pause', '3')),
        ('pause@sha256:ab', ('pause', 'sha256:ab')),
    ],
)
def test_reference(name, expected):
    assert host._reference(name) == expected
