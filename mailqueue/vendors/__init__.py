"""The vendors: one port (``base``), one file per vendor, ``load`` makes one from its config.

Decides: which class serves a config entry. Classes are imported when asked for: a producer knows
``limits`` without ever importing an HTTP or SMTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mailqueue.config import VENDOR_TYPES, VendorConfig
from mailqueue.errors import ConfigError

if TYPE_CHECKING:
    from mailqueue.vendors.base import Vendor


def load(config: VendorConfig, *, simulated: bool) -> Vendor:
    """A new instance for this config entry, or the simulation in its name.

    Each thread makes its own. Raises ConfigError when a class of your own cannot be imported, or
    raises anything when it is called.
    """
    known = VENDOR_TYPES.get(config.type)
    path = known.path if known else config.type
    found = _class("mailqueue.vendors.simulated:Simulated" if simulated else path, config)
    try:
        return found(config)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        said = f"{path} cannot be made: {type(error).__name__}"
        raise ConfigError([f"vendors.{config.name}.type: {said}"]) from error


def _class(path: str, config: VendorConfig) -> type[Vendor]:
    from mailqueue.vendors.base import Vendor

    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # the module's own code runs
        raise ConfigError([f"vendors.{config.name}.type: cannot import {path}"]) from error
    if not (isinstance(found, type) and issubclass(found, Vendor)):
        raise ConfigError([f"vendors.{config.name}.type: {path} is not a Vendor class"])
    return found
