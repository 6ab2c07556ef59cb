"""Whose certificates a vendor's server may show: the TLS settings of a connection to it.

Decides: that certificates and host names are verified, always; by the authorities of the vendor's
``ca_file``, else by those that the caller names.

Promises: a file that cannot be used is a ConfigError that names the key, when the vendor is made.
"""

from __future__ import annotations

import ssl
from functools import lru_cache

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError


@lru_cache(maxsize=32)
def context(file: str | None) -> ssl.SSLContext:
    """TLS that trusts the authorities in this file of PEM certificates, None: the system's.

    Read once: it takes 20 ms, which each new connection would pay. Raises OSError (ssl.SSLError is
    one) when the file has none.
    """
    return ssl.create_default_context(cafile=file)


def check(config: VendorConfig) -> None:
    """Raise ConfigError if the vendor has a ``ca_file`` that cannot be used."""
    try:
        if config.ca_file is not None:
            context(config.ca_file)
    except OSError:
        problem = "cannot be read as a file of PEM certificates"
        raise ConfigError([f"vendors.{config.name}.ca_file: {problem}"]) from None
