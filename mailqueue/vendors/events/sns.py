"""Amazon SNS's envelope, in which SES sends its events, and Scaleway in a copy of it.

Source: https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html.

Decides: what is believed. A valid signature only says that some topic of some customer sent the
message, so the topic must be the configured one. The certificate is fetched only from an address
whose host and path are the vendor's own (a bucket of anybody's is also under amazonaws.com), and
so is the address that confirms a subscription, after the signature was seen.

Promises: ``download`` follows no redirect and takes neither more than ``MAX_BYTES`` nor much longer
than ``TIMEOUT``. Certificates are kept by their address.
"""

from __future__ import annotations

import base64
import binascii
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from mailqueue.config import VendorConfig
from mailqueue.errors import MissingExtra
from mailqueue.vendors.events.source import (
    LONGEST_UNPROVEN,
    Answer,
    Away,
    EventRequest,
    EventSource,
    Malformed,
    NotAuthentic,
    VendorEvent,
    equal,
    json_of,
)
from mailqueue.vendors.values import mapping, text

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

TIMEOUT = 5.0  # seconds
MAX_BYTES = 64 * 1024
MAX_CERTIFICATES = 16  # kept; a vendor has two at a time
NOTIFICATION = "Notification"
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    **dict.fromkeys(
        ("SubscriptionConfirmation", "UnsubscribeConfirmation"),
        ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    ),
}


def download(url: str) -> bytes:
    """What stands at this address. Raises ``OSError``, also for an answer that is not 200."""
    import requests

    with requests.get(url, timeout=TIMEOUT, allow_redirects=False, stream=True) as response:
        body = response.raw.read(MAX_BYTES + 1, decode_content=True)
        if response.status_code != 200 or len(body) > MAX_BYTES:
            raise OSError(f"HTTP {response.status_code}, {len(body)} bytes")
        return bytes(body)


class SnsEvents(EventSource):
    """Events in SNS's envelope, from one topic."""

    fetches: ClassVar[bool] = True
    longest: ClassVar[int] = LONGEST_UNPROVEN
    certificate_url: ClassVar[re.Pattern[str]]
    subscribe_url: ClassVar[re.Pattern[str]]
    versions: ClassVar[Sequence[str]]

    def __init__(self, vendor: VendorConfig) -> None:
        super().__init__(vendor)
        try:
            import cryptography  # noqa: F401  # better now than at the first event
        except ImportError as error:
            reason = "the signatures of SNS are made with RSA"
            raise MissingExtra("events", "cryptography", reason) from error
        self.topic_arn: str | None = self.settings.get("topic_arn")
        self.download: Callable[[str], bytes] = download
        self._certificates: dict[str, Certificate] = {}
        self._lock = Lock()

    def verify(self, request: EventRequest) -> None:
        if request.headers.get("x-amz-sns-rawdelivery", "").lower() == "true":
            raise NotAuthentic("raw message delivery has no signature: switch it off")
        try:
            envelope = mapping(json_of(request.body))
        except Malformed:
            raise NotAuthentic("no signature: the body is no JSON") from None
        if self.topic_arn is None or not equal(text(envelope.get("TopicArn")), self.topic_arn):
            raise NotAuthentic("the topic is not the configured one")
        version, url = text(envelope.get("SignatureVersion")), text(envelope.get("SigningCertURL"))
        if version not in self.versions:
            raise NotAuthentic("unknown version of the signature")
        if self.certificate_url.fullmatch(url) is None:
            raise NotAuthentic("the certificate is not where the vendor has its own")
        self._verify_signature(envelope, self._certificate(url, request), version)

    def _verify_signature(
        self, envelope: Mapping[str, Any], certificate: Certificate, version: str
    ) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        names = _SIGNED.get(text(envelope.get("Type")))
        key = certificate.public_key()
        if names is None or not isinstance(key, rsa.RSAPublicKey):
            raise NotAuthentic("unknown type of message or of key")
        present = [(name, text(envelope.get(name))) for name in names if name in envelope]
        message = "".join(f"{name}\n{value}\n" for name, value in present)
        digest = hashes.SHA1() if version == "1" else hashes.SHA256()  # noqa: S303  # SNS's default
        try:
            signature = base64.b64decode(text(envelope.get("Signature")), validate=True)
            octets = message.encode("utf-8", "surrogatepass")
            key.verify(signature, octets, padding.PKCS1v15(), digest)
        except (InvalidSignature, binascii.Error, ValueError):
            raise NotAuthentic("the signature is missing or wrong") from None

    def _certificate(self, url: str, request: EventRequest) -> Certificate:
        from cryptography.x509 import load_pem_x509_certificate

        certificate = self._certificates.get(url)
        if certificate is None:
            try:
                certificate = load_pem_x509_certificate(self.download(url))
                self.check_issuer(certificate)
            except OSError as error:
                raise Away(
                    f"the certificate could not be fetched ({type(error).__name__})"
                ) from None
            except ValueError:
                raise NotAuthentic("the certificate cannot be read") from None
            with self._lock:
                while len(self._certificates) >= MAX_CERTIFICATES:
                    self._certificates.pop(next(iter(self._certificates)))
                self._certificates[url] = certificate
        if not certificate.not_valid_before_utc <= request.now <= certificate.not_valid_after_utc:
            raise NotAuthentic("the certificate is not valid now")
        return certificate

    def check_issuer(self, certificate: Certificate) -> None:
        """Raise ``NotAuthentic`` if somebody else issued it. TLS proves the place of Amazon's."""

    def confirm(self, request: EventRequest) -> Answer | None:
        """Confirm the subscription of our topic; None: the request is a notification."""
        envelope = mapping(json_of(request.body))
        kind = text(envelope.get("Type"))
        if kind == NOTIFICATION:
            return None
        url = text(envelope.get("SubscribeURL"))
        if kind == "SubscriptionConfirmation":
            if self.subscribe_url.fullmatch(url) is None:
                raise Malformed("the address that confirms is not the vendor's")
            try:
                self.download(url)
            except OSError as error:
                raise Away(f"could not be confirmed ({type(error).__name__})") from None
        return Answer()

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        envelope = mapping(json_of(request.body))
        try:
            message = json_of(text(envelope.get("Message")).encode("utf-8", "surrogatepass"))
        except Malformed:
            return []  # a sentence for people: that the topic was set up
        return self.read_message(mapping(message))

    @abstractmethod
    def read_message(self, message: Mapping[str, Any]) -> Sequence[VendorEvent]:
        """The events of one notification."""
