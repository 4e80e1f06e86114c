"""What ``tools/allinone destroy`` left behind: ``python -m tests.cloud.leftovers``.

Prints every finding, and fails when there is one.
"""

from __future__ import annotations

import glob
import json
import pathlib
import pwd
import shutil
import subprocess
import sys
import typing

from tests.cloud import settings
from zun_agent.images.docker import RESERVED
from zun_virt.sandbox import LABEL_SANDBOX, SANDBOX_IMAGES, SNAPSHOT_IMAGES

# The accounts stay, as they do when a Debian package is removed; nothing runs as them.
ACCOUNTS = ('nova', 'zun')


# Where the engine and the switch that allinone starts keep what they have.
DOCKER = pathlib.Path('/var/lib/docker')
SWITCH = pathlib.Path('/etc/openvswitch/conf.db')


def _run(*command: str) -> str:
    """Return a command's output; nothing when the program is not there."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except FileNotFoundError:
        return ''


def _answers(*command: str) -> bool:
    """Whether the service is there that a command asks."""
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except FileNotFoundError:
        return False


def cloud_processes(conf: settings.Settings) -> dict[int, str]:
    """Return the processes of the cloud, by their command line or their user."""
    accounts = set()
    for name in ACCOUNTS:
        try:
            accounts.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    found = {}
    for entry in pathlib.Path('/proc').iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
            owner = entry.stat().st_uid
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words and (owner in accounts or conf['ALLINONE_DIR'] in words):
            found[int(entry.name)] = words
    return found


def processes(conf: settings.Settings) -> list[str]:
    """Processes of the cloud."""
    return [f'process {pid}: {words}' for pid, words in cloud_processes(conf).items()]


def listeners(conf: settings.Settings) -> list[str]:
    """Open ports of the cloud."""
    ports = {value for name, value in conf.values.items() if name.endswith('_PORT')}
    found = []
    for line in _run('ss', '-Hltnp').splitlines():
        port = line.split()[3].rpartition(':')[2]
        if port in ports:
            found.append(f'listener: {line}')
    return found


def bridges() -> list[str]:
    """Return the bridges of Open vSwitch, from its file where it does not run."""
    if _answers('ovs-vsctl', '--timeout=5', 'show'):
        return _run('ovs-vsctl', '--timeout=5', 'list-br').split()
    if not SWITCH.exists():
        return []
    select = {'op': 'select', 'table': 'Bridge', 'where': [], 'columns': ['name']}
    (answer,) = json.loads(
        _run('ovsdb-tool', 'query', str(SWITCH), json.dumps(['Open_vSwitch', select]))
    )
    return [row['name'] for row in answer['rows']]


def devices(conf: settings.Settings) -> list[str]:
    """Bridges, devices, rules and network namespaces."""
    found = [f'bridge {name} of Open vSwitch' for name in bridges()]
    for link in json.loads(_run('ip', '-json', 'link', 'show') or '[]'):
        if link['ifname'].startswith(('tap', 'br-', 'qr-', 'qg-', 'qbr', 'qvo', 'qvb', 'zun-')):
            found.append(f'network device {link["ifname"]}')
    rules = _run('iptables-save') + _run('ip6tables-save')  # of all tables
    for rule in rules.splitlines():
        if 'zun-allinone' in rule or 'neutron-' in rule:
            found.append(f'rule {rule}')
    for name in _run('ipset', 'list', '-name').split():
        if name.startswith('NIPv'):
            found.append(f'set of addresses {name}')
    for name in _run('ip', 'netns', 'list').splitlines():
        if name.startswith(('qdhcp-', 'qrouter-', 'ovnmeta-')):
            found.append(f'network namespace {name}')
    return found


def docker_objects(conf: settings.Settings) -> list[str]:
    """Containers of sandboxes, and images that allinone, the driver or the agent made."""
    made = (SANDBOX_IMAGES, SNAPSHOT_IMAGES, RESERVED)
    containers, names, labels = _told() if _answers('docker', 'version') else _stored()
    found = [f'container {name}' for name, said in containers.items() if LABEL_SANDBOX in said]
    found += [f'image {name}' for name in names if name.startswith(made)]
    found += [f'image {ident}' for ident, said in labels.items() if conf['OUR_LABEL'] in said]
    return found


Labels = dict[str, dict[str, str]]


def _told() -> tuple[Labels, list[str], Labels]:
    """Return what the engine says: labels of containers, names of images, labels of images."""
    containers = _run('docker', 'ps', '-aq', '--no-trunc').split()
    images = _run('docker', 'images', '-aq', '--no-trunc').split()
    names = _run('docker', 'images', '--format', '{{.Repository}}:{{.Tag}}').splitlines()
    return _inspected(containers), names, _inspected(images)


def _inspected(ids: list[str]) -> Labels:
    said = json.loads(_run('docker', 'inspect', *ids)) if ids else []
    return {one['Id']: one['Config'].get('Labels') or {} for one in said}


def _stored() -> tuple[Labels, list[str], Labels]:
    """Return the same of an engine that does not run, from its files."""
    assert DOCKER.is_dir() or not shutil.which('dockerd'), f'{DOCKER} is not what Docker uses'
    configs = {
        path.parent.name: json.loads(path.read_text())
        for path in DOCKER.glob('containers/*/config.v2.json')
    }
    images = {
        path.name: json.loads(path.read_text())
        for path in DOCKER.glob('image/*/imagedb/content/sha256/*')
    }
    names = [
        reference
        for path in DOCKER.glob('image/*/repositories.json')
        for repository in json.loads(path.read_text())['Repositories'].values()
        for reference in repository
    ]

    def labels(kept: dict[str, dict[str, typing.Any]], part: str) -> Labels:
        return {name: (said.get(part) or {}).get('Labels') or {} for name, said in kept.items()}

    return labels(configs, 'Config'), names, labels(images, 'config')


def files(conf: settings.Settings) -> list[str]:
    """Directories, mounts, control groups and configuration of the host."""
    directory = conf['ALLINONE_DIR']
    sudoers = [conf['SUDOERS'], conf['VM_SUDOERS'], '/etc/sudoers.d/zun-virt']
    candidates = [directory, *sudoers, '/run/libvirt']
    found = [f'file {path}' for path in candidates if pathlib.Path(path).exists()]
    for line in pathlib.Path('/proc/self/mounts').read_text().splitlines():
        if line.split()[1].startswith(f'{directory}/'):
            found.append(f'mount {line.split()[1]}')
    for pattern in ('*/zun', '*/zun-second', '*/machine', 'zun', 'zun*.slice', '*/zun*.slice'):
        found += [f'control group {path}' for path in glob.glob(f'/sys/fs/cgroup/{pattern}')]
    return found


def loops(conf: settings.Settings) -> list[str]:
    """Loop devices of volumes."""
    lines = _run('losetup', '--list', '--noheadings', '--output', 'NAME,BACK-FILE').splitlines()
    return [f'loop device {line}' for line in lines if f'{conf["ALLINONE_DIR"]}/' in line]


def find() -> list[str]:
    """Return everything that is still there."""
    conf, found = settings.load(), []
    for kind in (processes, listeners, devices, docker_objects, files, loops):
        try:
            found += kind(conf)
        except (subprocess.SubprocessError, AssertionError, ValueError) as error:
            said = getattr(error, 'stderr', '')
            found.append(f'{kind.__name__} cannot be looked for: {error!r}: {said}')
    return found


def main() -> int:
    """Print what is left."""
    findings = find()
    for finding in findings:
        print(finding)
    print(f'{len(findings)} things left behind' if findings else 'nothing left behind')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
