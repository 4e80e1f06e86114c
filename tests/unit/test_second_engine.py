"""Of which engine the second host's is, as `tools/allinone up` finds it again."""

import os
import pathlib
import subprocess

import pytest

CLOUD = pathlib.Path(__file__).parents[2] / 'tools/cloud'
SAY_THE_STAMP = """
    set -eu
    . {0}/settings.sh
    . {0}/stages/second_host.sh
    start() {{ echo "$2"; }}
    forget_dead_docker() {{ :; }}
    start_second {1}
"""


def stamp(service, suite):
    """Return what a running service must have been started with to be left alone."""
    done = subprocess.run(
        ['bash', '-c', SAY_THE_STAMP.format(CLOUD, service)],
        env=os.environ | {'ALLINONE_SECOND_SUITE': suite},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip()


@pytest.mark.parametrize('service', ['containerd-2', 'dockerd-2'])
def test_another_suite_starts_another_engine(service):
    stamps = [stamp(service, suite) for suite in ('trixie', 'sid', '')]
    assert len(set(stamps)) == 3
    assert all(len(one.split()) == 1 for one in stamps)
    assert stamp(service, 'sid') == stamps[1]
