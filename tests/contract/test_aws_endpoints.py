"""The endpoints that lend credentials, on real sockets; and an SES that lives on them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mailqueue.message import Email
from mailqueue.record import Outcome, SendResult
from mailqueue.vendors import aws_endpoints
from mailqueue.vendors.aws_endpoints import NoCredentials
from mailqueue.vendors.aws_role import Role
from mailqueue.vendors.ses import Ses
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HttpServer, Received, Reply, Wire, cut_body, drip_headers, hang

SET = {
    "Code": "Success",
    "AccessKeyId": "LENT-ID",
    "SecretAccessKey": "lent-secret",
    "Token": "lent-token",
    "Expiration": "2038-01-19T03:14:07Z",
}
LENT = Reply(200, {}, json.dumps(SET).encode())
FULL, TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
MACHINE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
ROLES = "/latest/meta-data/iam/security-credentials/"


def soon() -> float:
    return time.monotonic() + 5


def failure(environ: dict[str, str], deadline: float | None = None) -> tuple[Outcome, str]:
    with pytest.raises(NoCredentials) as caught:
        aws_endpoints.fetch(environ, soon() if deadline is None else deadline)
    return caught.value.outcome, str(caught.value)


def machine(**replies: Reply) -> Callable[[Wire, Received], None]:
    """EC2's metadata service, version 2: without its token nothing is told."""
    answers = {"token": Reply(200, {}, b"the-token"), "roles": Reply(200, {}, b"my role\n")}
    answers = {**answers, "lent": LENT, **replies}

    def behave(wire: Wire, request: Received) -> None:
        name = {"/latest/api/token": "token", ROLES: "roles"}.get(request.path, "lent")
        reply = answers[name]
        if request.method == "GET" and request.headers.get("x-aws-ec2-metadata-token") is None:
            reply = Reply(401)
        reply(wire, request)

    return behave


def test_a_container_is_lent_credentials_for_its_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-file\n")
    with HttpServer(LENT) as server:
        environ = {FULL: f"{server.url}/v2/credentials?id=7", TOKEN: "of-the-environment"}
        lent = aws_endpoints.fetch(environ, soon())
        aws_endpoints.fetch({**environ, f"{TOKEN}_FILE": str(file)}, soon())
        aws_endpoints.fetch({FULL: server.url}, soon())
    assert lent.credentials.secrets == ("lent-secret", "lent-token", "LENT-ID")
    assert lent.ends_at == 2**31 - 1
    assert [r.path for r in server.requests] == ["/v2/credentials?id=7"] * 2 + ["/"]
    tokens = [r.headers.get("authorization") for r in server.requests]
    assert tokens == ["of-the-environment", "of-the-file", None]


def test_a_relative_uri_is_asked_of_the_containers_own_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HttpServer(LENT) as server:
        monkeypatch.setattr(aws_endpoints, "_CONTAINER", server.url)
        monkeypatch.setattr(aws_endpoints, "_PLAIN_HTTP", {"127.0.0.1"})
        environ = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/7"}
        assert aws_endpoints.fetch(environ, soon()).credentials.access_key_id == "LENT-ID"
    assert server.requests[0].path == "/v2/credentials/7"


def test_a_machine_is_lent_credentials_in_three_questions() -> None:
    with HttpServer(machine()) as server:
        lent = aws_endpoints.fetch({MACHINE: server.url}, soon())
    assert lent.credentials.access_key_id == "LENT-ID"
    told = [(r.method, r.path) for r in server.requests]
    assert told == [("PUT", "/latest/api/token"), ("GET", ROLES), ("GET", ROLES + "my")]
    assert int(server.requests[0].headers["x-aws-ec2-metadata-token-ttl-seconds"]) > 0


@pytest.mark.parametrize(
    "url", ["http://metadata.example.org/", "ftp://127.0.0.1/", "https:///x", "http://[", "/x"]
)
def test_a_token_does_not_go_to_just_any_host(url: str) -> None:
    assert failure({FULL: url, TOKEN: "t"})[0] is Outcome.MISCONFIGURED


BROKEN = [{**SET, "Token": None}, {**SET, "Expiration": "soon"}, {**SET, "SecretAccessKey": ""}]
BODIES = [b"", b"<html>", b"[]", b"7", *(json.dumps(found).encode() for found in BROKEN)]


@pytest.mark.parametrize("body", BODIES)
def test_an_answer_without_credentials_is_unavailable(body: bytes) -> None:
    with HttpServer(Reply(200, {}, body)) as server:
        assert failure({FULL: server.url})[0] is Outcome.UNAVAILABLE


@pytest.mark.parametrize(
    "status,outcome",
    [
        (400, Outcome.MISCONFIGURED),
        (403, Outcome.MISCONFIGURED),
        (302, Outcome.UNAVAILABLE),
        (429, Outcome.UNAVAILABLE),
        (500, Outcome.UNAVAILABLE),
    ],
)
def test_what_a_refusal_of_a_container_means(status: int, outcome: Outcome) -> None:
    with HttpServer(Reply(status, {"Location": "http://127.0.0.1:1/"})) as server:
        assert failure({FULL: server.url}) == (outcome, f"the role endpoint answered {status}")


def test_a_container_that_cannot_be_asked_is_unavailable_or_badly_configured() -> None:
    nobody = "http://127.0.0.1:1/"
    assert failure({FULL: nobody})[0] is Outcome.UNAVAILABLE
    assert failure({FULL: nobody + "a b"})[0] is Outcome.UNAVAILABLE
    assert failure({FULL: nobody, TOKEN: "a\nb"})[0] is Outcome.UNAVAILABLE
    assert failure({FULL: nobody, f"{TOKEN}_FILE": "/nowhere"})[0] is Outcome.MISCONFIGURED


def test_no_keys_and_no_role_endpoint_at_all_is_a_matter_of_configuration() -> None:
    assert failure({"AWS_EC2_METADATA_DISABLED": "true"})[0] is Outcome.MISCONFIGURED
    assert failure({MACHINE: "http://127.0.0.1:1"})[0] is Outcome.MISCONFIGURED
    with HttpServer(machine(token=Reply(403))) as server:
        assert failure({MACHINE: server.url})[0] is Outcome.MISCONFIGURED
    with HttpServer(machine(roles=Reply(404))) as server:
        assert failure({MACHINE: server.url})[0] is Outcome.MISCONFIGURED
    with HttpServer(machine(roles=Reply(200, {}, b"\n"))) as server:
        assert failure({MACHINE: server.url})[0] is Outcome.MISCONFIGURED


@pytest.mark.parametrize("name", [FULL, MACHINE])
@pytest.mark.parametrize("behaviour", [hang, drip_headers(LENT)], ids=["hang", "drip"])
def test_an_endpoint_that_is_too_slow_is_given_up_at_the_deadline(
    name: str, behaviour: Callable[[Wire, Received], None]
) -> None:
    with HttpServer(behaviour) as server:
        begin = time.monotonic()
        assert failure({name: server.url}, begin + 0.2)[0] is Outcome.UNAVAILABLE
        assert time.monotonic() - begin < 2


def test_an_answer_that_is_cut_is_unavailable() -> None:
    with HttpServer(cut_body(LENT)) as server:
        assert failure({FULL: server.url})[0] is Outcome.UNAVAILABLE


# --- SES without keys of its own


@pytest.fixture
def ses(vendor: Vendors, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ses]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def make(url: str | None, role: Role | None = None) -> Ses:
        made = vendor("ses", base_url=url, keys={"region": "eu-west-1"})
        assert isinstance(made, Ses)
        made.role = role or made.role
        return made

    return make


def test_ses_signs_with_what_it_is_lent_and_quotes_none_of_it(
    ses: Callable[..., Ses],
    plain: Email,
    attempt: Attempts,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    quoted = json.dumps({"message": "bad: LENT-ID lent-secret lent-token"}).encode()
    with HttpServer(LENT) as lender, HttpServer(Reply(403, {}, quoted)) as server:
        made = ses(server.url, Role({FULL: lender.url}))
        results = [made.send(plain, attempt()) for _ in range(2)]
    assert len(lender.requests) == 1
    for request in server.requests:
        assert "Credential=LENT-ID/" in request.headers["authorization"]
        assert request.headers["x-amz-security-token"] == "lent-token"
    assert {result.outcome for result in results} == {Outcome.MISCONFIGURED}
    assert "lent" not in f"{results} {made!r} {caplog.text}".lower()


def test_ses_signs_with_the_keys_of_the_environment(
    ses: Callable[..., Ses], plain: Email, attempt: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRON-ID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environ-secret")
    with HttpServer(Reply(200, {}, b'{"MessageId": "7"}')) as server:
        assert ses(server.url).send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert "Credential=ENVIRON-ID/" in server.requests[0].headers["authorization"]
    assert "x-amz-security-token" not in server.requests[0].headers


def test_ses_without_credentials_sends_nothing_and_says_why(
    ses: Callable[..., Ses], plain: Email, attempt: Attempts
) -> None:
    with HttpServer(Reply(200)) as server:
        made = ses(server.url, Role({"AWS_EC2_METADATA_DISABLED": "true"}))
        result = made.send(plain, attempt())
    assert result == SendResult(
        outcome=Outcome.MISCONFIGURED,
        code="credentials",
        detail="no keys and no role are configured",
        answered=False,
    )
    assert server.requests == []


def test_ses_has_a_host_per_region(ses: Callable[..., Ses]) -> None:
    assert ses(None).config.base_url == "https://email.eu-west-1.amazonaws.com"
