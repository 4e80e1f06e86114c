"""``zun-virt-status upgrade check``: whether this host can hold sandboxes, and what to change.

It is run as nova-compute's user with nova-compute's configuration, before that is started
or upgraded; it looks at what the service will need, and changes nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import nova.conf
from nova import exception, utils
from oslo_upgradecheck import upgradecheck

from zun_virt import checks, conf, host, network, privsep
from zun_virt.checks import Finding, Level

CONF = nova.conf.CONF
conf.register(CONF)

DRIVER = 'zun_virt.ZunDriver'

_CODES = {
    Level.FINE: upgradecheck.Code.SUCCESS,
    Level.WARNING: upgradecheck.Code.WARNING,
    Level.FAILURE: upgradecheck.Code.FAILURE,
}


class Checks(upgradecheck.UpgradeCommands):
    """What ``upgrade check`` looks at, in this order."""

    @functools.cached_property
    def _facts(self) -> host.Facts:
        """What Docker says of itself.

        :raises zun_virt.host.HostError: it does not answer, or is too old to be asked
        """
        url = CONF.zun_virt.docker_url
        return host.Host(host.connect(url, CONF.zun_virt.docker_timeout), CONF.host).check()

    def _driver(self) -> Finding:
        if CONF.compute_driver != DRIVER:
            return Finding(
                Level.FAILURE,
                f'compute_driver is {CONF.compute_driver}: set compute_driver = {DRIVER}, and '
                "give this command nova-compute's own --config-file",
            )
        return Finding(Level.FINE, f'compute_driver = {DRIVER}')

    def _engine(self) -> Finding:
        try:
            return checks.engine(self._facts)
        except host.HostError as error:
            return Finding(
                Level.FAILURE,
                f'{error}. Is Docker started, is [zun_virt] docker_url right, and is this user in '
                "Docker's group?",
            )

    def _of_facts(self, judge: Callable[[host.Facts], Finding]) -> Finding:
        try:
            return judge(self._facts)
        except host.HostError:
            return Finding(Level.WARNING, 'not known, as Docker does not tell')

    def _cores(self, facts: host.Facts) -> Finding:
        try:
            checks.check_cores(facts)
        except exception.InvalidConfiguration as error:
            return Finding(Level.FAILURE, str(error))
        return Finding(Level.FINE, '')

    def _switch(self) -> Finding:
        return checks.open_vswitch(network.switch_database())

    def _privileged(self) -> Finding:
        try:
            privsep.start()
        except privsep.PrivilegedError as error:
            return Finding(
                Level.FAILURE,
                f'{error}. Compare it with the lines of etc/sudoers.d/zun-virt, and run it by hand',
            )
        return Finding(Level.FINE, 'what runs as root can be started')

    _looks: tuple[tuple[str, Callable[[Checks], Finding]], ...] = (
        ('Compute driver', _driver),
        ('Docker Engine', _engine),
        ('Live restore', lambda self: self._of_facts(checks.live_restore)),
        ('Storage driver', lambda self: self._of_facts(checks.storage)),
        (
            'Control groups',
            lambda self: self._of_facts(
                lambda facts: checks.controllers(facts, CONF.zun_virt.cgroup_root)
            ),
        ),
        ('Swap', lambda self: self._of_facts(checks.swap)),
        ('Block I/O', lambda self: self._of_facts(checks.disk_io)),
        ('Cores', lambda self: self._of_facts(self._cores)),
        ('State directory', lambda self: checks.state_directory(CONF.zun_virt.state_path)),
        ('Open vSwitch', _switch),
        ('Privileged processes', _privileged),
        ('Time-outs', lambda self: self._of_facts(checks.timeouts)),
    )

    @property
    def _upgrade_checks(self) -> list[tuple[str, Callable[[Checks], upgradecheck.Result]]]:
        return [(title, functools.partial(_result, look)) for title, look in self._looks]

    def check(self) -> upgradecheck.Code:
        """Look at everything, and print what was found.

        :returns: the worst
        """
        # By what command root is reached is known once the configuration has been read.
        privsep.reach_root_by(utils.get_root_helper())
        return super().check()


def _result(look: Callable[[Checks], Finding], commands: Checks) -> upgradecheck.Result:
    found = look(commands)
    return upgradecheck.Result(_CODES[found.level], found.text or None)


def main() -> int:
    """Run the command.

    :returns: 0 when all is fine, 1 with warnings, 2 when sandboxes cannot be made here
    """
    return int(upgradecheck.main(CONF, project='nova', upgrade_command=Checks()))


if __name__ == '__main__':
    sys.exit(main())
