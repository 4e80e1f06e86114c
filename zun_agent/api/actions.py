"""What a container can be told to do; every one of these is stored, then carried out."""

from __future__ import annotations

import re
import signal
import typing

from zun_agent import errors
from zun_agent.api.request import Request, Response, accepted
from zun_agent.api.schemas import containers, count

if typing.TYPE_CHECKING:
    from zun_agent.manager import Manager
    from zun_agent.models import Container

_REALTIME = re.compile(r'RT(MIN(\+\d{1,2})?|MAX(-\d{1,2})?)')
_LAST_SIGNAL = 64
_NAMES = {each.value: each.name.removeprefix('SIG') for each in signal.Signals}


def start(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/start``"""
    return _plain(request, ident, 'start', lambda manager: manager.start)


def pause(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/pause``"""
    return _plain(request, ident, 'pause', lambda manager: manager.pause)


def unpause(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/unpause``"""
    return _plain(request, ident, 'unpause', lambda manager: manager.unpause)


def _plain(
    request: Request,
    ident: str,
    action: str,
    method: typing.Callable[[Manager], typing.Callable[..., None]],
) -> Response:
    found = request.container(ident, f'container:{action}')
    containers.NOTHING.validate(request.parameters)
    return _carry_out(request, found, method(request.services.manager))


def stop(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/stop``"""
    found = request.container(ident, 'container:stop')
    return _carry_out(request, found, request.services.manager.stop, timeout=_timeout(request))


def reboot(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/reboot``"""
    found = request.container(ident, 'container:reboot')
    return _carry_out(request, found, request.services.manager.restart, timeout=_timeout(request))


def kill(request: Request, ident: str) -> Response:
    """``POST /containers/{ident}/kill``"""
    found = request.container(ident, 'container:kill')
    parameters = request.parameters
    containers.KILL.validate(parameters)
    name = signal_name(parameters.get('signal'))
    return _carry_out(request, found, request.services.manager.kill, signal=name)


def _timeout(request: Request) -> int | None:
    parameters = request.parameters
    containers.STOP.validate(parameters)
    return count(parameters.get('timeout'))


def _carry_out(
    request: Request,
    found: Container,
    method: typing.Callable[..., None],
    **arguments: typing.Any,
) -> Response:
    relayed = request.services.relay.change(request, found)
    if relayed is not None:
        return relayed
    method(request.context, found, **arguments)
    return accepted()


def signal_name(given: str | int | None) -> str | None:
    """Return the signal's name without its ``SIG``, in capitals; None where none is given.

    :param given: a name with or without ``SIG``, or a number
    :raises Invalid: there is no such signal
    """
    text = str(given if given is not None else '').strip().upper()
    if text in ('', 'NONE'):
        return None
    if text.isascii() and text.isdigit():
        number = int(text)
        if number in _NAMES:
            return _NAMES[number]
        if 0 < number <= _LAST_SIGNAL:
            return str(number)
    name = text.removeprefix('SIG')
    if f'SIG{name}' in signal.Signals.__members__ or _REALTIME.fullmatch(name):
        return name
    raise errors.Invalid(f"Invalid input for field 'signal': {given!r} is no signal")
