"""Archives of images, as ``docker save`` writes them and ``docker load`` reads them."""

import hashlib
import io
import json
import tarfile

UNREADABLE = (tarfile.TarError, KeyError)
"""What `loaded` raises of an archive that is none."""


class Pieces(io.BytesIO):
    """What the engine sends piece by piece."""

    def iter_content(self, size):
        while chunk := self.read(700):
            yield chunk


def saved(pictures):
    """Return an archive of several images, as ``docker save`` writes it.

    :param pictures: configuration and layers, by tag
    """
    output, manifest, names = io.BytesIO(), [], {}
    with tarfile.open(fileobj=output, mode='w') as tar:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for number, (tag, (config, layers)) in enumerate(pictures.items()):
            for place, layer in enumerate(layers):
                name = f'{number}-{place}/layer.tar'
                if layer in names:  # the engine writes what it has written as a link
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = tarfile.SYMTYPE, f'../{names[layer]}'
                    tar.addfile(info)
                else:
                    names[layer] = name
                    add(name, layer)
            add(f'{number}.json', json.dumps(config).encode())
            layers = [f'{number}-{place}/layer.tar' for place in range(len(layers))]
            manifest.append({'Config': f'{number}.json', 'RepoTags': [tag], 'Layers': layers})
        add('manifest.json', json.dumps(manifest).encode())
        add('repositories', b'{}')
    return output.getvalue()


def loaded(archive):
    """Give each image of an archive: id, configuration, layers and tags.

    :param archive: as a file
    """
    with tarfile.open(fileobj=archive) as tar:
        for entry in json.load(tar.extractfile('manifest.json')):
            config = tar.extractfile(entry['Config']).read()
            layers = tuple(tar.extractfile(name).read() for name in entry['Layers'])
            ident = f'sha256:{hashlib.sha256(config).hexdigest()}'
            yield ident, json.loads(config), layers, entry['RepoTags']


def archive(config=None, layers=(b'layer',), tags=('evil:latest',), manifest=None, extra=()):
    """Return an image archive as ``docker save`` writes it.

    :param config: replaces the image's configuration, as a dict or as bytes
    :param manifest: replaces what manifest.json holds
    :param extra: further members, as tarfile.TarInfo
    """
    if config is None:
        config = image_config(layers)
    document = config if isinstance(config, bytes) else json.dumps(config).encode()
    names = [f'{number}/layer.tar' for number in range(len(layers))]
    if manifest is None:
        manifest = [{'Config': 'abc.json', 'RepoTags': list(tags), 'Layers': names}]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode='w') as tar:
        members = dict(zip(names, layers, strict=True)) | {
            'abc.json': document,
            'manifest.json': json.dumps(manifest).encode(),
        }
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return output.getvalue()


def image_config(layers=(b'layer',), **changes):
    """Return an image's configuration."""
    return {
        'architecture': 'amd64',
        'os': 'linux',
        'config': {'Entrypoint': ['/pause'], 'Env': ['A=b'], 'Volumes': {'/data': {}}, 'User': '7'},
        'rootfs': {
            'type': 'layers',
            'diff_ids': [f'sha256:{hashlib.sha256(layer).hexdigest()}' for layer in layers],
        },
        **changes,
    }
