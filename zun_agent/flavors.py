"""The choice of a flavor for a new sandbox."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence

from zun_agent import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavor:
    """A flavor of Nova's.

    :ivar memory: MiB
    :ivar disk: GiB
    """

    id: str
    name: str
    vcpus: int
    memory: int
    disk: int
    extra_specs: dict[str, str]

    def __str__(self) -> str:
        """Say in short what it has, for a user."""
        return f'{self.name} ({self.vcpus} VCPU, {self.memory} MiB, {self.disk} GiB)'

    def requires(self, trait: str) -> bool:
        """Tell whether servers of this flavor land on hosts with this trait only."""
        return self.extra_specs.get(f'trait:{trait}') == 'required'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What a container asks of its new sandbox; None where it does not ask.

    :ivar cpu: cores
    :ivar memory: MiB
    :ivar disk: GiB
    """

    cpu: float | None = None
    memory: int | None = None
    disk: int | None = None

    def __str__(self) -> str:
        """Say it in short, for a user."""
        parts = [
            f'{value:g} {unit}'
            for value, unit in ((self.cpu, 'cpu'), (self.memory, 'MiB'), (self.disk, 'GiB'))
            if value is not None
        ]
        return ', '.join(parts) or 'anything'

    def fits(self, flavor: Flavor) -> bool:
        """Tell whether the flavor holds it."""
        return (
            flavor.vcpus >= math.ceil(self.cpu or 0)
            and flavor.memory >= (self.memory or 0)
            and flavor.disk >= (self.disk or 0)
        )


def flavor_of(found: dict[str, typing.Any]) -> Flavor:
    """Read a flavor in the form in which Nova lists it."""
    return Flavor(
        id=found['id'],
        name=found['name'],
        vcpus=int(found['vcpus'] or 0),
        memory=int(found['ram'] or 0),
        disk=int(found['disk'] or 0),
        extra_specs=found.get('extra_specs') or {},
    )


def choose(
    flavors: Sequence[Flavor],
    ask: Ask,
    *,
    trait: str,
    named: str | None = None,
    default_cpu: float,
    default_memory: int,
) -> Flavor:
    """Return the smallest flavor for sandboxes that holds what is asked.

    :param flavors: those that the user may use
    :param named: id or name of the one that the user wants; it need not hold the defaults
    :param default_cpu: cores, for a user who asks for none
    :param default_memory: MiB, for a user who asks for none
    :raises errors.NoSandboxFlavor: there is none
    """
    usable = sorted(
        (flavor for flavor in flavors if flavor.requires(trait)),
        key=lambda flavor: (flavor.memory, flavor.vcpus, flavor.disk, flavor.name),
    )
    if named is not None:
        return _named(named, flavors, usable, ask)
    wanted = Ask(
        cpu=default_cpu if ask.cpu is None else ask.cpu,
        memory=default_memory if ask.memory is None else ask.memory,
        disk=ask.disk,
    )
    for flavor in usable:
        if wanted.fits(flavor):
            return flavor
    raise errors.NoSandboxFlavor(
        f'No flavor for sandboxes holds {wanted}; {_available(usable, trait)}.'
    )


def _named(named: str, flavors: Sequence[Flavor], usable: Sequence[Flavor], ask: Ask) -> Flavor:
    by_id = [flavor for flavor in flavors if flavor.id == named]
    matches = by_id or [flavor for flavor in flavors if flavor.name == named]
    if not matches:
        raise errors.NoSandboxFlavor(
            f'There is no flavor {named!r}; for sandboxes there are: {_names(usable)}.'
        )
    flavor = matches[0]
    if flavor not in usable:
        raise errors.NoSandboxFlavor(
            f'Flavor {flavor.name} is not for sandboxes; these are: {_names(usable)}.'
        )
    if not ask.fits(flavor):
        raise errors.NoSandboxFlavor(f'Flavor {flavor} does not hold {ask}.')
    return flavor


def _available(usable: Sequence[Flavor], trait: str) -> str:
    if not usable:
        return f'none that this project may use requires the trait {trait}'
    return f'available: {_names(usable)}'


def _names(usable: Sequence[Flavor]) -> str:
    return ', '.join(map(str, usable)) or 'none'
