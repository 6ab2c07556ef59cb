"""What is signed here is signed as the vendors' own SDKs sign it."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from string import ascii_letters, ascii_lowercase, digits

import pytest

from mailqueue.vendors import azure
from mailqueue.vendors.aws import signing as aws
from tests.azure_hmac import sdks_headers
from tests.sigv4 import botocores_authorization

REQUESTS = 500
KEYS = ascii_letters + digits + "/+="
VECTORS_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwA"
    "eMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8p"
    "hUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT"
    "38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabI"
    "Qwj2ICCR/oLxBA=="
)
TEXT = "".join(map(chr, range(33, 127))) + "   äß"


def text(rng: Random, alphabet: str, least: int, most: int) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(least, most)))


def moment(rng: Random) -> datetime:
    return datetime(2015, 8, 30, tzinfo=UTC) + timedelta(seconds=rng.randrange(10**9))


def path(rng: Random) -> str:
    """As it stands on the wire: some octets are percent-encoded already."""
    letters = [*ascii_letters, *digits, "-", "_", ".", "~", ":", "@", "+", "%20", "%2F", "%C3%A4"]
    words = ("".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(rng.randint(0, 4)))
    return "/" + "/".join(word for word in words if word.strip("."))


def test_sigv4_signatures_are_those_of_botocore() -> None:
    rng = Random(20150830)
    for _ in range(REQUESTS):
        host = text(rng, ascii_lowercase, 1, 12) + rng.choice([".amazonaws.com", ":8443"])
        token = rng.choice([None, text(rng, KEYS, 1, 200)])
        names = {text(rng, ascii_letters + digits + "-", 1, 12) for _ in range(rng.randint(0, 4))}
        headers = {f"X-{name}": text(rng, TEXT, 0, 30).strip() for name in names}
        headers["Content-Type"] = "application/json"
        keys = text(rng, KEYS, 16, 20), text(rng, KEYS, 20, 60)
        scope = text(rng, ascii_lowercase + "-", 1, 14), text(rng, ascii_lowercase, 1, 9)
        where, body, now = path(rng), rng.randbytes(rng.randint(0, 300)), moment(rng)
        signed = aws.sign(
            where,
            {"Host": host, **headers},
            body,
            credentials=aws.Credentials(*keys, token),
            region=scope[0],
            service=scope[1],
            now=now,
        )
        url = f"https://{host}{where}"
        theirs = botocores_authorization(
            url, headers, body, keys=(*keys, token), scope=scope, now=now
        )
        assert signed["Authorization"] == theirs


@pytest.mark.parametrize(
    "headers,token,signed,signature",
    [
        pytest.param(
            {},
            None,
            "host;x-amz-date",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            id="post-vanilla",
        ),
        pytest.param(
            {"My-Header1": "value1"},
            None,
            "host;my-header1;x-amz-date",
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            id="post-header-key-sort",
        ),
        pytest.param(
            {},
            VECTORS_TOKEN,
            "host;x-amz-date;x-amz-security-token",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            id="post-sts-header-before",
        ),
    ],
)
def test_sigv4_signatures_are_those_of_the_published_vectors(
    headers: dict[str, str], token: str | None, signed: str, signature: str
) -> None:
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    made = aws.sign(
        "/",
        {"Host": "example.amazonaws.com", **headers},
        b"",
        credentials=aws.Credentials("AKIDEXAMPLE", secret, token),
        region="us-east-1",
        service="service",
        now=datetime(2015, 8, 30, 12, 36, tzinfo=UTC),
    )
    scope = "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
    expected = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders={signed}, Signature={signature}"
    assert made["Authorization"] == expected


def test_azures_signatures_are_those_of_its_sdk() -> None:
    rng = Random(20230331)
    for _ in range(REQUESTS):
        host = text(rng, ascii_lowercase, 1, 12) + rng.choice([".communication.azure.com", ":8443"])
        key = b64encode(rng.randbytes(rng.randint(1, 64))).decode()
        where = f"{path(rng)}?api-version={text(rng, digits + '-', 1, 10)}"
        body, now = text(rng, TEXT, 0, 300), moment(rng)
        url, date = f"https://{host}{where}", format_datetime(now, usegmt=True)
        for method, content in (("POST", body), ("GET", "")):
            made = azure.sign(method, where, host, content.encode(), access_key=key, now=now)
            theirs = sdks_headers(method, url, content, access_key=key, date=date)
            for name in ("Authorization", "x-ms-date", "x-ms-content-sha256"):
                assert made[name] == theirs[name.lower()]


def test_no_repr_shows_credentials() -> None:
    assert "secret" not in repr(aws.Credentials("secret-id", "secret-key", "secret-token"))
