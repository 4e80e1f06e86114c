"""What only the host of a container can tell or do at once: logs, commands, processes, use."""

from __future__ import annotations

import datetime

from zun_agent import errors
from zun_agent.api import spec
from zun_agent.api.request import Request, Response, answer
from zun_agent.api.schemas import boolean, containers


def logs(request: Request, ident: str) -> Response:
    """``GET /containers/{ident}/logs``"""
    found = request.container(ident, 'container:logs')
    query = request.query
    containers.LOGS.validate(query)
    stdout, stderr = boolean(query.get('stdout'), True), boolean(query.get('stderr'), True)
    if not stdout and not stderr:
        stdout = stderr = True
    tail = query.get('tail') or 'all'
    relayed = request.services.relay.read(request, found)
    if relayed is not None:
        return relayed
    output = request.services.manager.logs(
        request.context,
        found,
        stdout=stdout,
        stderr=stderr,
        timestamps=boolean(query.get('timestamps')),
        tail=None if tail == 'all' else int(tail),
        since=since(query.get('since')),
    )
    return answer(output)


def since(text: str | None) -> int | None:
    """Return the seconds since the epoch for either form in which clients write a time.

    :raises Invalid: it is no time
    """
    if not text:
        return None
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text.replace(',', '.'))
    except ValueError as error:
        raise errors.Invalid(f"Invalid input for field 'since': {error}") from error
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def execute(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/execute``"""
    found = request.container(ident, 'container:execute')
    parameters = request.parameters
    containers.EXECUTE.validate(parameters)
    if boolean(parameters.get('interactive')) or not boolean(parameters.get('run'), True):
        raise errors.NotSupported('Interactive commands are not supported by this service yet.')
    command = spec.words('command', parameters['command'])
    if not command:
        raise errors.Invalid("Invalid input for field 'command': it is empty")
    with request.services.commands.place(request.context.project_id):
        relayed = request.services.relay.read(request, found)
        if relayed is not None:
            return relayed
        output, exit_code = request.services.manager.execute(request.context, found, command)
    return answer({'output': output, 'exit_code': exit_code, 'exec_id': None, 'proxy_url': None})


def top(request: Request, ident: str) -> Response:
    """``GET /containers/{ident}/top``"""
    found = request.container(ident, 'container:top')
    query = request.query
    containers.TOP.validate(query)
    relayed = request.services.relay.read(request, found)
    if relayed is not None:
        return relayed
    ps_args = query.get('ps_args') or None
    return answer(request.services.manager.top(request.context, found, ps_args))


def stats(request: Request, ident: str) -> Response:
    """``GET /containers/{ident}/stats``"""
    found = request.container(ident, 'container:stats')
    containers.NOTHING.validate(request.query)
    relayed = request.services.relay.read(request, found)
    if relayed is not None:
        return relayed
    return answer(request.services.manager.stats(request.context, found))
