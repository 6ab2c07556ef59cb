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
def context(file: str | None, protocol: str | None = None) -> ssl.SSLContext:
    """TLS that trusts the authorities in this file of PEM certificates, None: the system's.

    ``protocol`` is the one to be agreed on (ALPN). Read once: it takes 20 ms, which each new
    connection would pay. Raises OSError (ssl.SSLError is one) when the file has none.
    """
    made = ssl.create_default_context(cafile=file)
    if protocol is not None:
        made.set_alpn_protocols([protocol])
    return made


def check(config: VendorConfig) -> None:
    """Raise ConfigError if the vendor has a ``ca_file`` that cannot be used."""
    try:
        if config.ca_file is not None:
            context(config.ca_file)
    except OSError:
        problem = "cannot be read as a file of PEM certificates"
        raise ConfigError([f"vendors.{config.name}.ca_file: {problem}"]) from None


def own_context(config: VendorConfig) -> ssl.SSLContext:
    """TLS for one vendor alone, which shows the server the vendor's ``client_cert``, if it has one.

    Raises ConfigError, which names the key, for files that cannot be used.
    """
    check(config)
    made = ssl.create_default_context(cafile=config.ca_file)
    key = "client_cert"
    try:
        if config.keys.get("client_cert") is not None:
            # With a password, though there is none: else it would be asked for at the terminal.
            made.load_cert_chain(config.keys[key], config.keys["client_key"], "")
    except OSError:
        if _is_readable(config.keys[key]):
            key = "client_key" if config.keys["client_key"] is not None else key
        problem = "cannot be read as a PEM certificate and its key, without a password"
        raise ConfigError([f"vendors.{config.name}.{key}: {problem}"]) from None
    return made


def _is_readable(path: str) -> bool:
    try:
        ssl.create_default_context(cafile=path)
    except OSError:
        return False
    return True
