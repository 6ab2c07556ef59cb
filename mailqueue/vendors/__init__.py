"""The vendors: one port (``base``), one file per vendor, ``load`` makes one from its config.

This is also the door for authors of adapters: everything they need is imported from
``mailqueue.vendors``. ``HttpVendor`` (see ``http``) is for a vendor with an HTTP API, ``Vendor``
(see ``base``) for any other. ``payloads`` and ``values`` have what most adapters need to make a
request and to read an answer. To try an adapter, run a server on 127.0.0.1 and make the vendor by
``load(VendorConfig("name", "module:Class", base_url="http://127.0.0.1:8080"), simulated=False)``.

Decides: which class serves a config entry. Classes are imported when asked for: a producer uses
``limits`` without importing an HTTP or SMTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mailqueue.config import VendorConfig
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from mailqueue.lifecycle.outcomes import Outcome, SendResult
    from mailqueue.vendors.base import Attempt, Vendor
    from mailqueue.vendors.http import HttpVendor, Request, Response, json_request

__all__ = [
    "Attempt",
    "ConfigError",
    "HttpVendor",
    "Outcome",
    "Request",
    "Response",
    "SendResult",
    "Vendor",
    "VendorConfig",
    "json_request",
    "load",
    "payloads",
    "values",
]

FAKE = "mailqueue.testing.fake_vendor:ScriptedVendor"  # answers by a test's script, sends nothing
_SUBMODULES = ("payloads", "values")
_NAMES = {
    "mailqueue.lifecycle.outcomes": ("Outcome", "SendResult"),
    "mailqueue.vendors.base": ("Attempt", "Vendor"),
    "mailqueue.vendors.http": ("HttpVendor", "Request", "Response", "json_request"),
}


if not TYPE_CHECKING:  # a type checker would believe that any name is there

    def __getattr__(name: str) -> Any:
        """The names for authors of vendors, imported when they are asked for."""
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        for module, names in _NAMES.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(config: VendorConfig, *, simulated: bool) -> Vendor:
    """A new instance for this config entry, or the simulation under its name.

    Each thread makes its own. Raises ConfigError if a class of your own cannot be imported or
    raises when it is called, if a vendor needs an extra that is not installed, and if a fake one is
    asked for in production.
    """
    row = VENDOR_TYPES.get(config.type)
    path = row.path if row else config.type
    if path == FAKE and not simulated:
        raise ConfigError([f"vendors.{config.name}.type: sends nothing: not for production"])
    is_replaced = simulated and path != FAKE
    vendor = _class("mailqueue.vendors.simulated:Simulated" if is_replaced else path, config)
    try:
        return vendor(config)
    except ConfigError:
        raise
    except MissingExtra as error:
        raise ConfigError([f"vendors.{config.name}: {error}"]) from error
    except (Exception, SystemExit) as error:
        problem = f"cannot create {path}: {type(error).__name__}"
        raise ConfigError([f"vendors.{config.name}.type: {problem}"]) from error


def _class(path: str, config: VendorConfig) -> type[Vendor]:
    from mailqueue.vendors.base import Vendor

    module, _, name = path.partition(":")
    try:
        vendor = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # the module's own code runs
        raise ConfigError([f"vendors.{config.name}.type: cannot import {path}"]) from error
    if not (isinstance(vendor, type) and issubclass(vendor, Vendor)):
        raise ConfigError([f"vendors.{config.name}.type: {path} is not a Vendor class"])
    return vendor
