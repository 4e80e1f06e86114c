"""What nova may start as root, by sudo or by rootwrap: what it needs, and nothing else."""

import pathlib
import re

import pytest

ETC = pathlib.Path(__file__).parents[2] / 'etc'
CONTEXTS = (
    'zun_virt.privsep.network',
    'zun_virt.privsep.mounts',
    'vif_plug_ovs.privsep.vif_plug',
    'os_brick.privileged.default',
    'os_brick.privileged.brick_privsep_hide_output',
)
CONF = '/etc/nova/nova.conf'
SOCKET = '/tmp/tmpab_12xyz/privsep.sock'


def sudo(arguments):
    """Return whether a line of ours lets sudo start the helper with these arguments."""
    lines = (ETC / 'sudoers.d' / 'zun-virt').read_text().splitlines()
    start = 'nova ALL=(root) NOPASSWD: /usr/bin/privsep-helper '
    rules = [line.removeprefix(start) for line in lines if not line.startswith('#')]
    assert all(rule.startswith('^') and rule.endswith('$') for rule in rules)
    return any(re.search(rule, ' '.join(arguments)) for rule in rules)


def rootwrap(arguments):
    filters = pytest.importorskip('oslo_rootwrap.filters')
    lines = (ETC / 'nova' / 'rootwrap.d' / 'zun-virt.filters').read_text().splitlines()
    command = ['privsep-helper', *arguments]
    for line in lines:
        if ':' in line and not line.startswith('#'):
            kind, *parts = re.split(r',\s*', line.partition(':')[2].strip())
            assert kind == 'RegExpFilter'
            if filters.RegExpFilter(*parts).match(command):
                return True
    return False


def asked(conf=CONF, context=CONTEXTS[0], socket=SOCKET):
    return [
        *('--config-file', conf),
        *('--privsep_context', context),
        *('--privsep_sock_path', socket),
    ]


@pytest.fixture(params=[sudo, rootwrap])
def allowed(request):
    return request.param


@pytest.mark.parametrize('context', CONTEXTS)
def test_what_sandboxes_need(allowed, context):
    assert allowed(asked(context=context))


@pytest.mark.parametrize(
    'arguments',
    [
        asked(conf='/tmp/mine.conf'),
        asked(conf='/etc/nova/../../tmp/mine.conf'),
        asked(conf='/etc/nova/nova_conf'),
        asked(context='nova.privsep.sys_admin_pctxt'),
        asked(context='os_brick.privileged.default.x'),
        asked(conf='/tmp/mine.conf', context='os_brick.privileged.default'),
        asked(context='zun_virt.privsep.network.x'),
        asked(context='zun_virtXprivsep.network'),
        asked(socket='/tmp/../etc/privsep.sock'),
        asked(socket='/etc/cron.d/privsep.sock'),
        ['--config-file', '/tmp/mine.conf', *asked()],
        [*asked(), '--config-file', '/tmp/mine.conf'],
        [*asked(), '--log-file', '/etc/cron.d/mine'],
    ],
)
def test_what_would_make_nova_root(allowed, arguments):
    assert not allowed(arguments)
