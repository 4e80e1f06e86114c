"""What goes wrong on the host, in the words that nova shows to users."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Iterator

from nova import exception

from zun_virt import cgroup, host, sandbox

FAILURES = (
    host.HostError,
    cgroup.CgroupError,
    sandbox.SandboxError,
    exception.NovaException,
    OSError,
)
"""All that an act on a sandbox can raise."""

_Method = typing.TypeVar('_Method', bound=Callable[..., typing.Any])


@contextlib.contextmanager
def _novas_words() -> Iterator[None]:
    try:
        yield
    except host.HostUnavailable as error:
        raise exception.HypervisorUnavailable(str(error)) from error
    except cgroup.CgroupError as error:
        raise exception.NovaException(f"The sandbox's limits cannot be set: {error}") from error
    except (host.HostError, sandbox.SandboxError, OSError) as error:
        # The last is the file system's, where the sandbox's directory is.
        raise exception.NovaException(str(error)) from error


def in_novas_words(method: _Method) -> _Method:
    """Make a method of the driver raise nova's exceptions only."""

    @functools.wraps(method)
    def wrapper(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        with _novas_words():
            return method(*args, **kwargs)

    # nova compares argument lists, and does not look behind a decorator.
    wrapper.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return typing.cast(_Method, wrapper)
