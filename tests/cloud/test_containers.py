"""What a user does with containers, through python-zunclient, in a sandbox that is there."""

from __future__ import annotations

import re
import time

import pytest
from zunclient.common.apiclient import exceptions as errors

from tests.cloud import host
from tests.cloud.cloud import User, Workspace
from tests.cloud.waiting import stays, wait_until

FOREVER = ['sh', '-c', 'trap "exit 0" TERM; sleep 3600 & wait']


def _settled(user: User, container_id: str, status: str) -> None:
    """Wait until a container has that status and the agent is not at work on it."""

    def arrived() -> bool:
        shown = user.show(container_id)
        return shown.status == status and shown.task_state is None

    wait_until(
        f'container {container_id} {status}',
        arrived,
        timeout=30,
        interval=0.1,
        explain=lambda: user.describe(container_id),
    )


def test_created_container_waits_for_its_start(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.create(sandbox=sandbox, command=FOREVER)
    user.wait(one, 'Created')
    assert host.container(one).status == 'created'
    with pytest.raises(errors.Conflict, match='Cannot stop container'):
        user.containers.stop(one, timeout=1)
    user.containers.start(one)
    _settled(user, one, 'Running')
    assert host.container(one).status == 'running'


def test_stop_and_start(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.running(sandbox=sandbox)
    docker_id = host.container(one).id
    user.containers.stop(one, timeout=10)
    _settled(user, one, 'Stopped')
    assert host.container(one).attrs['State']['ExitCode'] == 0
    with pytest.raises(errors.Conflict, match=r'Cannot stop container .* in Stopped state'):
        user.containers.stop(one, timeout=10)
    user.containers.start(one)
    _settled(user, one, 'Running')
    assert host.container(one).id == docker_id


def test_stop_kills_after_its_timeout(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox, command=['sh', '-c', 'trap "" TERM; sleep 3600'])
    begin = time.monotonic()
    space.user.containers.stop(one, timeout=1)
    _settled(space.user, one, 'Stopped')
    assert 0.8 < time.monotonic() - begin < 6
    assert host.container(one).attrs['State']['ExitCode'] == 137


def test_restart_is_a_new_start_of_the_same_container(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox)
    before = host.container(one)
    space.user.containers.restart(one, timeout=10)
    wait_until(
        'a new start',
        lambda: (
            host.container(one).attrs['State']['StartedAt'] != before.attrs['State']['StartedAt']
        ),
        timeout=20,
    )
    _settled(space.user, one, 'Running')
    assert host.container(one).id == before.id


@pytest.mark.parametrize(('signal', 'code'), [('KILL', 137), ('SIGUSR1', 7), ('15', 0)])
def test_kill_sends_that_signal(space: Workspace, sandbox: str, signal: str, code: int) -> None:
    script = 'trap "exit 7" USR1; trap "exit 0" TERM; while :; do sleep 0.1; done'
    one = space.running(sandbox=sandbox, command=['sh', '-c', script])
    time.sleep(0.3)  # the shell sets its traps
    space.user.containers.kill(one, signal=signal)
    _settled(space.user, one, 'Stopped')
    assert host.container(one).attrs['State']['ExitCode'] == code
    assert f'Exited({code})' in space.user.show(one).status_detail


def test_kill_without_a_signal_kills(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox)
    space.user.containers.kill(one)
    _settled(space.user, one, 'Stopped')
    assert host.container(one).attrs['State']['ExitCode'] == 137


def test_pause_freezes_and_unpause_goes_on(space: Workspace, sandbox: str) -> None:
    user = space.user
    script = 'while :; do echo tick; sleep 0.1; done'
    one = space.running(sandbox=sandbox, command=['sh', '-c', script])
    user.containers.pause(one)
    _settled(user, one, 'Paused')
    ticks = user.logs(one).count('tick')
    time.sleep(0.6)
    assert user.logs(one).count('tick') == ticks
    with pytest.raises(errors.Conflict):
        user.containers.execute(one, command='true', run=True, interactive=False)
    user.containers.unpause(one)
    _settled(user, one, 'Running')
    wait_until('ticks again', lambda: user.logs(one).count('tick') > ticks, timeout=5)


def test_update_of_name_and_limits(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.running(sandbox=sandbox, cpu=0.2, memory='32')
    name = space.name('renamed')
    shown = user.containers.update(one, name=name, cpu=0.1, memory='48')
    assert (shown.name, shown.cpu, shown.memory) == (name, 0.1, '48')
    assert user.show(name).uuid == one

    def limits() -> tuple[int, float]:
        told = host.container(one).attrs['HostConfig']
        return told['Memory'], told['NanoCpus'] / 1e9 or told['CpuQuota'] / 1e5

    wait_until('in Docker, too', lambda: limits() == (48 << 20, 0.1), timeout=5)
    with pytest.raises(errors.BadRequest, match='128'):
        user.containers.update(one, memory='4096')
    assert user.show(one).memory == '48'


def test_delete_asks_for_a_stopped_container(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.running(sandbox=sandbox)
    with pytest.raises(errors.Conflict, match=r'Cannot delete container .* in Running state'):
        user.containers.delete(one)
    assert user.status(one) == 'Running'
    user.containers.delete(one, stop=True)
    user.wait(one, 'gone')
    assert not host.copies(one)


def test_delete_by_force_is_for_the_operator(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox, command=['sh', '-c', 'trap "" TERM; sleep 3600'])
    with pytest.raises(errors.Forbidden):
        space.user.containers.delete(one, force=True)
    assert space.user.status(one) == 'Running'
    space.admin.containers.delete(one, force=True, all_projects=True)
    space.user.wait(one, 'gone', timeout=8)
    assert not host.copies(one)


def test_logs(space: Workspace, sandbox: str) -> None:
    user = space.user
    script = 'echo one; echo two >&2; sleep 2.2; echo three; echo "gr\u00fc\u00df"'
    one = space.run(sandbox=sandbox, command=['sh', '-c', script])
    user.wait(one, 'Stopped')
    assert sorted(user.logs(one).split()) == sorted(['one', 'two', 'three', 'gr\u00fc\u00df'])
    assert user.logs(one, stderr=False).split() == ['one', 'three', 'gr\u00fc\u00df']
    assert user.logs(one, stdout=False).split() == ['two']
    assert user.logs(one, tail='1').split() == ['gr\u00fc\u00df']
    stamped = user.logs(one, stderr=False, timestamps=True).splitlines()
    assert re.match(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z one$', stamped[0])
    started = host.container(one).attrs['State']['StartedAt']
    begin = int(host.command('date', '-u', '-d', started, '+%s'))
    assert user.logs(one, since=begin + 2).split() == ['three', 'gr\u00fc\u00df']


def test_logs_of_a_running_container(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox, command=['sh', '-c', 'echo begun; sleep 3600'])
    wait_until('output', lambda: space.user.logs(one) == 'begun\n', timeout=5)


def test_execute(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.running(sandbox=sandbox, workdir='/tmp', environment={'COLOUR': 'green'})
    output, code = user.execute(one, 'echo out; echo err >&2; pwd; echo $COLOUR')
    assert (sorted(output.split()), code) == (sorted(['out', 'err', '/tmp', 'green']), 0)
    assert user.execute(one, 'exit 3') == ('', 3)
    begin = time.monotonic()
    assert user.execute(one, 'sleep 12; echo late') == ('late\n', 0)
    assert time.monotonic() - begin > 12
    output, code = user.execute(one, 'head -c 3000000 /dev/zero | tr "\\0" x')
    assert (len(output), code) == (3_000_000, 0)


def test_execute_of_a_program_that_is_not_there(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox)
    try:
        answer = space.user.containers.execute(
            one, command='no-such-program', run=True, interactive=False
        )
    except errors.BadRequest as error:
        assert 'no-such-program' in str(error)
    else:
        assert answer['exit_code'] in (126, 127)
        assert 'no-such-program' in answer['output']


def test_execute_ends_with_its_container(space: Workspace, sandbox: str) -> None:
    """Docker's stream of an exec hangs for ever when the container ends first."""
    one = space.running(sandbox=sandbox, command=['sh', '-c', 'sleep 2'])
    begin = time.monotonic()
    try:
        space.user.execute(one, 'sleep 60')
    except errors.HttpError as error:
        assert error.http_status in (404, 409), error
    assert time.monotonic() - begin < 15
    space.user.wait(one, 'Stopped')


def test_top_and_stats(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.running(sandbox=sandbox, command=['sleep', '3600'], memory='64')
    top = user.containers.top(one)
    assert 'PID' in top['Titles']
    assert len(top['Processes']) == 1
    assert 'sleep 3600' in ' '.join(top['Processes'][0])
    stats = user.containers.stats(one)
    assert set(stats) == {
        *('CONTAINER', 'CPU %', 'MEM USAGE(MiB)', 'MEM LIMIT(MiB)', 'MEM %'),
        *('BLOCK I/O(B)', 'NET I/O(B)'),
    }
    assert 0 <= stats['MEM USAGE(MiB)'] < 64
    assert stats['MEM LIMIT(MiB)'] == pytest.approx(64, abs=0.1)


def test_actions_tell_what_was_done(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.running(sandbox=sandbox)
    user.containers.stop(one, timeout=1)
    _settled(user, one, 'Stopped')
    actions = user.zun.actions.list(one)
    by_name = {action.action: action for action in actions}
    assert {'run', 'stop'} <= set(by_name)
    stop = by_name['stop']
    assert stop.message is None
    assert stop.finish_time
    assert stop.project_id == user.project_id
    shown = user.zun.actions.get(one, stop.request_id)
    assert [(event['event'], event['result']) for event in shown.events] == [('stop', 'Success')]


def _turns(container_id: str) -> int:
    """Return how often a container was started, by what each turn wrote."""
    return sum(one.logs().count(b'turn') for one in host.copies(container_id))


def test_restart_policy_on_failure_gives_up_at_its_count(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.run(
        sandbox=sandbox,
        command=['sh', '-c', 'echo turn; exit 5'],
        restart_policy={'Name': 'on-failure', 'MaximumRetryCount': '2'},
    )
    wait_until('three turns', lambda: _turns(one) == 3, timeout=30)
    _settled(user, one, 'Stopped')
    stays('no fourth turn', lambda: _turns(one) == 3, seconds=3)
    assert user.show(one).restart_policy == {'Name': 'on-failure', 'MaximumRetryCount': '2'}


def test_restart_policy_always_until_the_user_stops_it(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.run(
        sandbox=sandbox,
        command=['sh', '-c', 'echo turn; sleep 0.5'],
        restart_policy={'Name': 'always'},
    )
    wait_until('three turns', lambda: _turns(one) >= 3, timeout=30)
    wait_until(
        'stop accepted', lambda: _accepted(lambda: user.containers.stop(one, timeout=5)), timeout=20
    )
    _settled(user, one, 'Stopped')
    turns = _turns(one)
    stays('stopped', lambda: _turns(one) == turns, seconds=3)


def _accepted(request) -> bool:  # type: ignore[no-untyped-def]
    try:
        request()
    except errors.Conflict:  # between two of its turns it does not run
        return False
    return True


def test_auto_remove(space: Workspace, sandbox: str) -> None:
    one = space.run(sandbox=sandbox, command=['sleep', '1'], auto_remove=True)
    space.user.wait(one, 'gone')
    assert not host.copies(one)


def test_failing_command_is_told(space: Workspace, sandbox: str) -> None:
    user = space.user
    one = space.run(sandbox=sandbox, command=['no-such-program'])
    shown = user.wait(one, 'Error')
    assert 'no-such-program' in shown.status_reason


@pytest.mark.alone
def test_status_follows_docker_within_a_second(space: Workspace, sandbox: str) -> None:
    user = space.user
    late = []
    for _ in range(3):
        one = space.running(sandbox=sandbox)
        host.container(one).kill()
        begin = time.monotonic()
        while user.status(one) == 'Running' and time.monotonic() - begin < 10:
            time.sleep(0.02)
        late.append(time.monotonic() - begin)
        assert user.status(one) == 'Stopped'
    assert sorted(late)[1] < 1, late
    one = space.running(sandbox=sandbox)
    begin = time.monotonic()
    host.container(one).pause()
    user.wait(one, 'Paused', timeout=1)
    host.container(one).unpause()
    user.wait(one, 'Running', timeout=1)
