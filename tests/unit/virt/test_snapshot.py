"""Snapshots of sandboxes: their archives, and what becomes of them."""

import io
import json
import tarfile
import uuid

import pytest
from nova import exception
from nova.compute import task_states

from tests.unit.virt import archives, fake_docker
from tests.unit.virt.conftest import make_image, make_instance, make_vif
from zun_virt import archive, snapshot

OURS = 'zun-sandbox-image:x-y'
C1, C2, SNAPSHOT = (str(uuid.uuid4()) for _ in range(3))


@pytest.fixture
def instance(zun):
    made = make_instance(vm_state='active')
    zun.spawn(None, made, make_image(), None, None, None, network_info=[make_vif()])
    return made


def add(machine, instance, written):
    ident = machine.add_container(instance.uuid, Env=['A=b'], Cmd=['run'])
    machine.docker.written[machine.docker.named(f'zun-{ident}')['Id']] = written
    return ident


def take(zun, instance, image_id=SNAPSHOT):
    states = []

    def update(task_state, expected_state=None):
        states.append((task_state, expected_state))

    zun.snapshot(None, instance, image_id, update)
    assert states == [
        (task_states.IMAGE_PENDING_UPLOAD, None),
        (task_states.IMAGE_UPLOADING, task_states.IMAGE_PENDING_UPLOAD),
    ]
    return make_image(id=image_id, checksum='c0ffee')


def respawn(zun, instance, image):
    zun.destroy(None, instance, [make_vif()])
    zun.spawn(None, instance, image, None, None, None, network_info=[make_vif()])


def layers(machine, name):
    return machine.docker.contents_[machine.docker.images_[name]][1]


def contents(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def test_what_containers_wrote_comes_back(zun, machine, instance):
    one, two = add(machine, instance, b'of one'), add(machine, instance, b'of two')
    machine.docker.stop(f'zun-{two}')
    image = take(zun, instance)
    respawn(zun, instance, image)
    record = machine.store.read(instance.uuid)
    assert set(record.images) == {one, two}
    assert layers(machine, record.images[one])[-1] == b'of one'
    assert layers(machine, record.images[two])[-1] == b'of two'
    config = machine.docker.contents_[machine.docker.images_[record.images[one]]][0]
    assert config['config'] == {
        'Cmd': ['run'],
        'Entrypoint': ['/pause'],
        'Env': ['A=b'],
        'User': '7',
        'Volumes': {'/data': {}},
    }


def test_nothing_of_a_snapshot_stays_on_the_host(zun, machine, instance):
    add(machine, instance, b'x')
    before = dict(machine.docker.images_)
    take(zun, instance)
    assert machine.docker.images_ == before


def test_nothing_of_a_failed_snapshot_stays_either(zun, machine, instance):
    add(machine, instance, b'x')
    add(machine, instance, b'y')
    before = dict(machine.docker.images_)
    machine.docker.fail('save', fake_docker.api_error(500, 'no space'))
    with pytest.raises(exception.NovaException, match='no space'):
        take(zun, instance)
    assert machine.docker.images_ == before


def test_a_container_that_goes_meanwhile_is_left_out(zun, machine, instance):
    for _ in range(2):
        add(machine, instance, b'x')
    machine.docker.fail('commit', fake_docker.api_error(404, 'No such container'))
    take(zun, instance)
    assert (
        len(json.loads(contents(machine.glance.data[SNAPSHOT])[snapshot.CONTENTS])['containers'])
        == 1
    )


def test_a_sandbox_that_is_gone_has_no_snapshot(zun, machine):
    with pytest.raises(exception.InstanceNotRunning):
        zun.snapshot(None, make_instance(), SNAPSHOT, lambda **_: None)


def test_its_images_go_with_the_sandbox(zun, machine, instance):
    add(machine, instance, b'x')
    respawn(zun, instance, take(zun, instance))
    (name,) = machine.store.read(instance.uuid).images.values()
    assert name in machine.docker.images_
    zun.destroy(None, instance, [make_vif()])
    assert name not in machine.docker.images_


def test_images_that_were_pruned_are_fetched_again(zun, machine, instance):
    add(machine, instance, b'x')
    image = take(zun, instance)
    respawn(zun, instance, image)
    respawn(zun, instance, image)
    (name,) = machine.store.read(instance.uuid).images.values()
    assert layers(machine, name)[-1] == b'x'
    assert machine.glance.downloads.count(SNAPSHOT) == 2


def test_another_server_made_from_it_is_an_empty_sandbox(zun, machine, instance):
    add(machine, instance, b'x')
    image = take(zun, instance)
    for state in ('building', 'active'):
        other = make_instance(vm_state=state)
        zun.spawn(None, other, image, None, None, None, network_info=[])
        assert machine.store.read(other.uuid).images == {}


def test_a_configured_image_does_not_hide_a_snapshot(zun, machine, instance):
    add(machine, instance, b'x')
    image = take(zun, instance)
    zun._images._configured = 'kubernetes/pause'
    respawn(zun, instance, image)
    assert len(machine.store.read(instance.uuid).images) == 1
    other = make_instance()
    zun.spawn(None, other, image, None, None, None, network_info=[])
    assert machine.docker.named(f'zun-sandbox-{other.uuid}')['Config']['Image'] == 'sha256:pause'


def test_the_archive_names_no_tags(zun, machine, instance):
    one = add(machine, instance, b'x')
    take(zun, instance)
    files = contents(machine.glance.data[SNAPSHOT])
    manifest = json.loads(files['manifest.json'])
    assert {entry['RepoTags'] for entry in manifest} == {None}
    assert 'repositories' not in files
    told = json.loads(files[snapshot.CONTENTS])
    assert told['instance'] == instance.uuid
    assert set(told['containers']) == {one}


# Archives that somebody made by hand


def forged(told, tags=('a', 'b')):
    """Return a snapshot's archive with another table of contents."""
    pictures = {tag: (archives.image_config((tag.encode(),)), (tag.encode(),)) for tag in tags}
    data = io.BytesIO(archives.saved(pictures))
    text = json.dumps(told).encode()
    with tarfile.open(fileobj=data, mode='a') as tar:
        info = tarfile.TarInfo(snapshot.CONTENTS)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return data.getvalue()


GOOD = {'version': 1, 'instance': C1, 'sandbox': '0.json', 'containers': {C2: '1.json'}}


def rewritten(tmp_path, data, **options):
    source, target = tmp_path / 'source', tmp_path / 'target'
    source.write_bytes(data)
    archive.rewrite(source, target, tag=OURS, architecture='amd64', **options)
    return contents(target.read_bytes())


def test_an_archive_gets_our_tags_whatever_it_says(tmp_path):
    files = rewritten(tmp_path, forged(GOOD, tags=('kubernetes/pause:latest', 'b')))
    manifest = json.loads(files['manifest.json'])
    part = f'zun-snapshot-image:x-y-{C2}'
    assert [entry['RepoTags'] for entry in manifest] == [[OURS], [part]]
    labels = json.loads(files['config.json'])['config']['Labels']
    assert json.loads(labels[snapshot.LABEL]) == {'instance': C1, 'images': {C2: part}}
    assert set(json.loads(files['config.json'])['config']) == {'Entrypoint', 'Labels'}
    assert 'Labels' not in json.loads(files['config1.json'])['config']


@pytest.mark.parametrize(
    'told',
    [
        None,
        [],
        {},
        {**GOOD, 'version': 2},
        {**GOOD, 'instance': '../x'},
        {**GOOD, 'instance': None},
        {**GOOD, 'sandbox': None},
        {**GOOD, 'sandbox': '9.json'},
        {**GOOD, 'sandbox': '../../etc/passwd'},
        {**GOOD, 'containers': None},
        {**GOOD, 'containers': {'evil:latest': '1.json'}},
        {**GOOD, 'containers': {C2: '9.json'}},
        {**GOOD, 'containers': {C2: 7}},
        {**GOOD, 'containers': {str(uuid.uuid4()): '1.json' for _ in range(1001)}},
    ],
)
def test_a_table_of_contents_is_not_believed(tmp_path, told):
    with pytest.raises(snapshot.ArchiveError):
        rewritten(tmp_path, forged(told))


def test_only_a_snapshot_may_be_large(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, 'MAX_ARCHIVE', 100)
    assert rewritten(tmp_path, forged(GOOD), largest=1 << 20)
    with pytest.raises(snapshot.ArchiveError, match='more than'):
        rewritten(tmp_path, forged(GOOD), largest=500)
    with pytest.raises(snapshot.ArchiveError, match='more than'):
        rewritten(tmp_path, archives.archive(), largest=1 << 20)


def test_a_layer_of_several_images_is_written_once(tmp_path):
    base = (b'base',)
    pictures = {
        'a': (archives.image_config(base), base),
        'b': (archives.image_config((*base, b'more')), (*base, b'more')),
    }
    saved = b''.join(snapshot.described(iter([archives.saved(pictures)]), C1, 'a', {C2: 'b'}))
    files = rewritten(tmp_path, saved)
    assert sorted(name for name in files if name.startswith('layer')) == [
        'layer0.tar',
        'layer1.tar',
    ]


def test_an_engine_that_leaves_an_image_out_is_noticed():
    pictures = {'a': (archives.image_config(), (b'layer',))}
    with pytest.raises(snapshot.ArchiveError, match='left'):
        list(snapshot.described(iter([archives.saved(pictures)]), C1, 'a', {C2: 'b'}))


@pytest.mark.parametrize('size', [1, 3, 4, 5, 100])
def test_what_comes_in_pieces_is_read_as_a_file(size):
    stream = snapshot.Readable(iter([b'abc', b'', b'defgh', b'i']))
    assert b''.join(iter(lambda: stream.read(size), b'')) == b'abcdefghi'
