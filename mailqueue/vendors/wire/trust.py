"""The TLS settings of a connection to a vendor: which authorities it trusts.

Decides: certificates and host names are always verified, by the authorities of the vendor's
``ca_file``, else by those that the caller names.

Promises: a file that cannot be used is a ConfigError that names its key, when the vendor is made.
"""

from __future__ import annotations

import ssl
from functools import lru_cache

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError


@lru_cache(maxsize=32)
def context(file: str | None, protocol: str | None = None) -> ssl.SSLContext:
    """TLS that trusts the authorities in this file of PEM certificates; None: the system's.

    ``protocol`` is offered by ALPN. Reading the file takes 20 ms, so it is read once. Raises
    OSError (ssl.SSLError is one) if the file has no certificate.
    """
    tls = ssl.create_default_context(cafile=file)
    if protocol is not None:
        tls.set_alpn_protocols([protocol])
    return tls


def check(config: VendorConfig) -> None:
    """Raise ConfigError if the vendor has a ``ca_file`` that cannot be used."""
    try:
        if config.ca_file is not None:
            context(config.ca_file)
    except OSError:
        problem = "cannot be read as a file of PEM certificates"
        raise ConfigError([f"vendors.{config.name}.ca_file: {problem}"]) from None


def own_context(config: VendorConfig) -> ssl.SSLContext:
    """TLS for one vendor alone, with its ``client_cert``, if it has one. Raises ConfigError."""
    check(config)
    tls = ssl.create_default_context(cafile=config.ca_file)
    key = "client_cert"
    try:
        if config.keys.get("client_cert") is not None:
            # The empty password keeps OpenSSL from asking for one at the terminal.
            tls.load_cert_chain(config.keys[key], config.keys["client_key"], "")
    except OSError:
        if _is_readable(config.keys[key]):
            key = "client_key" if config.keys["client_key"] is not None else key
        problem = "cannot be read as a PEM certificate and its key, without a password"
        raise ConfigError([f"vendors.{config.name}.{key}: {problem}"]) from None
    return tls


def _is_readable(path: str) -> bool:
    try:
        ssl.create_default_context(cafile=path)
    except OSError:
        return False
    return True
