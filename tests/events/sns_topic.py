"""A topic that signs as Amazon SNS does, with a certificate of an authority of its own."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mailqueue.vendors.events.source import EventRequest
from tests.events.case import request

BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
AUTHORITY_KEY, TOPIC_KEY, STRANGERS_KEY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)
)
SIGNED = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
CONFIRMING = (
    "Message",
    "MessageId",
    "SubscribeURL",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
)


def _certificate(
    subject: str, key: rsa.RSAPrivateKey, issuer: str, issuers_key: rsa.RSAPrivateKey
) -> bytes:
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (subject, issuer)
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(END)
    )
    return builder.sign(issuers_key, hashes.SHA256()).public_bytes(Encoding.PEM)


AUTHORITY = _certificate("authority", AUTHORITY_KEY, "authority", AUTHORITY_KEY)
CERTIFICATE = _certificate("topic", TOPIC_KEY, "authority", AUTHORITY_KEY)
STRANGERS = _certificate("topic", TOPIC_KEY, "authority", STRANGERS_KEY)


def envelope(message: str, arn: str, certificate_url: str, **fields: Any) -> EventRequest:
    """A request of the topic ``arn``, signed with ``TOPIC_KEY``; ``fields`` are signed, too."""
    values = {
        "Type": "Notification",
        "MessageId": "8e0f0000-0000-5000-8000-00000000000a",
        "TopicArn": arn,
        "Message": message,
        "Timestamp": "2026-05-28T20:26:41.000Z",
        "SignatureVersion": "1",
        "SigningCertURL": certificate_url,
    } | fields
    names = SIGNED if values["Type"] == "Notification" else CONFIRMING
    text = "".join(f"{name}\n{values[name]}\n" for name in names if name in values)
    digest = hashes.SHA256() if values["SignatureVersion"] == "2" else hashes.SHA1()
    octets = text.encode("utf-8", "surrogatepass")
    signature = TOPIC_KEY.sign(octets, padding.PKCS1v15(), digest)
    values["Signature"] = base64.b64encode(signature).decode()
    headers = {"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "x"}
    return request(json.dumps(values).encode(), headers)


def with_field(name: str, value: Any) -> Any:
    """A forgery: the envelope with another value of this field, its signature as it was."""

    def forge(original: EventRequest) -> EventRequest:
        values = json.loads(original.body) | {name: value}
        return request(json.dumps(values).encode(), original.headers)

    return forge
