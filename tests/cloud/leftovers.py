"""What ``tools/allinone destroy`` left behind: ``python -m tests.cloud.leftovers``.

Prints every finding, and fails when there is one.
"""

from __future__ import annotations

import glob
import json
import pathlib
import pwd
import subprocess
import sys

from tests.cloud import settings

# The accounts stay, as they do when a Debian package is removed; nothing runs as them.
ACCOUNTS = ('nova', 'zun')


def _run(*command: str) -> str:
    """Return a command's output; nothing when the program is not there or its service is down."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return ''
    return result.stdout if result.returncode == 0 else ''


def processes(conf: settings.Settings) -> list[str]:
    """Processes of the cloud: by their command line, their user or their open port."""
    accounts = set()
    for name in ACCOUNTS:
        try:
            accounts.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    found = []
    for entry in pathlib.Path('/proc').iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
            owner = entry.stat().st_uid
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words and (owner in accounts or conf['ALLINONE_DIR'] in words):
            found.append(f'process {entry.name}: {words}')
    return found


def listeners(conf: settings.Settings) -> list[str]:
    """Open ports of the cloud."""
    ports = {value for name, value in conf.values.items() if name.endswith('_PORT')}
    found = []
    for line in _run('ss', '-Hltnp').splitlines():
        port = line.split()[3].rpartition(':')[2]
        if port in ports:
            found.append(f'listener: {line}')
    return found


def devices(conf: settings.Settings) -> list[str]:
    """Bridges, devices, rules and network namespaces."""
    found = [f'bridge {name} of Open vSwitch' for name in _run('ovs-vsctl', 'list-br').split()]
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
    """Containers of sandboxes, and images that allinone built."""
    label = 'label=org.openstack.zun.sandbox'
    found = [
        f'container {name}'
        for name in _run(
            'docker', 'ps', '-a', '--filter', label, '--format', '{{.Names}}'
        ).splitlines()
    ]
    label = f'label={conf["OUR_LABEL"]}'
    found += [
        f'image {name}'
        for name in _run(
            'docker', 'images', '--filter', label, '--format', '{{.Repository}}:{{.Tag}} {{.ID}}'
        ).splitlines()
    ]
    return found


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
    conf = settings.load()
    return [
        finding
        for kind in (processes, listeners, devices, docker_objects, files, loops)
        for finding in kind(conf)
    ]


def main() -> int:
    """Print what is left."""
    findings = find()
    for finding in findings:
        print(finding)
    print(f'{len(findings)} things left behind' if findings else 'nothing left behind')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
