"""Certificates that are good and those that are not, and the vendors of the contract suite."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.contract.conftest import attempt, authority, plain, vendor
from tests.vendor_servers import HOST

__all__ = ["attempt", "authority", "plain", "vendor"]  # fixtures of the contract suite

BAD = ("wrong host name", "expired", "not yet valid", "self-signed", "untrusted authority")
Certificates = Callable[[str], ssl.SSLContext]


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Certificates:
    """A server's side of TLS, with a certificate that is "good" or one of ``BAD``."""

    def make(kind: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if kind == "self-signed":
            context.load_cert_chain(_self_signed(tmp_path / "self-signed.pem"))
        else:
            _issued(kind, authority).configure_cert(context)
        return context

    return make


def _issued(kind: str, authority: trustme.CA) -> trustme.LeafCert:
    now, day = datetime.now(UTC), timedelta(days=1)
    match kind:
        case "good":
            return authority.issue_cert(HOST)
        case "wrong host name":
            return authority.issue_cert("other.example.org")
        case "expired":
            return authority.issue_cert(HOST, not_before=now - 2 * day, not_after=now - day)
        case "not yet valid":
            return authority.issue_cert(HOST, not_before=now + day, not_after=now + 2 * day)
        case "untrusted authority":
            return trustme.CA().issue_cert(HOST)
    raise ValueError(kind)


def _self_signed(file: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now, day = datetime.now(UTC), timedelta(days=1)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), False)
    ).sign(key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(secret + built.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    """The file of the one authority that is trusted."""
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return str(file)


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Opens what is a context manager, until the test is over."""
    with ExitStack() as stack:
        yield stack.enter_context
