"""What the tools say when something fails, without a cloud."""

import pathlib
import re
import subprocess

TOOLS = pathlib.Path(__file__).parents[2] / 'tools'


def bash(script, directory):
    return subprocess.run(
        ['bash', '-u', '-o', 'pipefail', '-c', script],
        env={'PATH': '/usr/bin:/bin', 'LOG': str(directory), 'TOOLS': str(TOOLS)},
        capture_output=True,
        text=True,
        timeout=60,
    )


STAGES = """
. "$TOOLS/cloud/lib/output.sh"
stage_quick_one() { sleep 0.2; }
stage_bad() { seq 20; echo 'no room left' >&2; false; echo 'went on'; }
run_stages quick-one bad
echo 'went on'
"""


def test_stages_tell_their_times_and_the_end_of_the_log_of_one_that_fails(tmp_path):
    done = bash(STAGES, tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r'\d\d:\d\d:\d\d  quick-one       0\.[2-9] s\n', done.stdout)
    failed, named, *lines = done.stderr.splitlines()
    assert failed.endswith('FAILED: stage bad')
    assert named.strip() == f'last lines of {tmp_path}/stage-bad.log:'
    assert [line.strip() for line in lines] == [
        *(f'| {number}' for number in range(7, 21)),
        '| no room left',
    ]


def test_a_commit_is_looked_at_by_the_same_ruff():
    pinned = re.findall('^ruff==.*', (TOOLS / 'cloud/requirements.txt').read_text(), re.M)
    hooks = (TOOLS.parent / '.pre-commit-config.yaml').read_text()
    assert set(re.findall('ruff==[0-9.]+', hooks)) == set(pinned)
