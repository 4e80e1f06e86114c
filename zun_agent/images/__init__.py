"""Where images come from: the drivers, which are entry points, and their interface."""

from __future__ import annotations

import importlib.metadata
import typing

from zun_agent import errors

if typing.TYPE_CHECKING:
    from zun_agent.openstack import OpenStack
    from zun_agent.runtime import Runtime

NAMESPACE = 'zun_agent.images'


class Driver(typing.Protocol):
    """A source of images."""

    def __init__(self, conf: typing.Any, runtime: Runtime, cloud: OpenStack) -> None:
        """Use the engine and the cloud; nothing is asked of either yet."""

    def resolve(self, context: typing.Any, name: str) -> str | None:
        """Check what a user asks for, inside of the request and by the user's own token.

        :returns: what it stands for, to be kept; None where the name says it all
        :raises errors.Invalid: it is no name of an image
        :raises errors.ImageNotFound: the user has no such image
        """

    def reference(self, name: str, pinned: str | None) -> str:
        """Return the name by which Docker has the image, once it was fetched.

        :param pinned: what `resolve` returned
        :raises errors.Invalid: it is no name of an image
        """

    def fetch(self, name: str, pinned: str | None) -> None:
        """Bring the image to this host, or the newer one if it is there.

        :raises errors.AgentError: it is not to be had; the message is for the user
        """


class Images:
    """The drivers that the operator offers."""

    def __init__(self, drivers: dict[str, Driver]) -> None:
        """Offer `drivers`, by their names."""
        self._drivers = drivers

    def driver(self, name: str) -> Driver:
        """Return a driver.

        :raises errors.Invalid: there is none of this name
        """
        try:
            return self._drivers[name]
        except KeyError as error:
            offered = ', '.join(self._drivers)
            raise errors.Invalid(
                f'No image driver is named {name}; there are {offered}.'
            ) from error

    def resolve(self, context: typing.Any, driver: str, name: str) -> str | None:
        """Check the image of a request; see `Driver.resolve`."""
        return self.driver(driver).resolve(context, name)


def load(conf: typing.Any, runtime: Runtime, cloud: OpenStack) -> Images:
    """Return the drivers that ``[container] image_drivers`` names.

    :raises LookupError: one of them is not installed
    """
    installed = {entry.name: entry for entry in importlib.metadata.entry_points(group=NAMESPACE)}
    drivers: dict[str, Driver] = {}
    for name in conf.container.image_drivers:
        if name not in installed:
            raise LookupError(
                f'[container] image_drivers names {name}, and the installed ones are '
                f'{", ".join(sorted(installed)) or "none"}'
            )
        drivers[name] = installed[name].load()(conf, runtime, cloud)
    return Images(drivers)
