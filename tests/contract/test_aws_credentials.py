"""SES without keys of its own: what botocore's chain lends it, from sources on real sockets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError, MissingExtra
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import load
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.aws import credentials as aws_credentials
from mailqueue.vendors.ses import Ses
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HttpServer, Received, Reply, Wire, drip_headers, hang
from tests.waiting import wait_until

SET = {
    "Code": "Success",
    "AccessKeyId": "LENT-ID",
    "SecretAccessKey": "lent-secret",
    "Token": "lent-token",
    "Expiration": "2038-01-19T03:14:07Z",
}
LENT = Reply(200, {}, json.dumps(SET).encode())
ACCEPTED = Reply(200, {}, b'{"MessageId": "7"}')
FULL, TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
MACHINE, NO_MACHINE = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_DISABLED"
ROLES = "/latest/meta-data/iam/security-credentials/"
ASSUMED = """
<{0}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{0}Result>
<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/mail/x</Arn></AssumedRoleUser>
<Credentials><AccessKeyId>LENT-ID</AccessKeyId><SecretAccessKey>lent-secret</SecretAccessKey>
<SessionToken>lent-token</SessionToken><Expiration>2038-01-19T03:14:07Z</Expiration></Credentials>
</{0}Result></{0}Response>"""
REFUSED = """
<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>AccessDenied</Code><Message>not for lent-secret</Message></Error></ErrorResponse>"""

Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Environment]:
    """Sets variables of an environment without AWS; the process has forgotten what it was lent."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv(NO_MACHINE, "true")

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    aws_credentials.chain.cache_clear()
    levels = {name: logging.getLogger(name).level for name in ("botocore", "botocore.credentials")}
    yield set_variables
    aws_credentials.chain.cache_clear()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


Send = Callable[..., SendResult]


@pytest.fixture
def send(environment: Environment, vendor: Vendors, plain: Email, attempt: Attempts) -> Send:
    """Send an e-mail by an SES of no keys at this URL, which has ``seconds`` for it."""

    def make(url: str, seconds: float = 8.0) -> SendResult:
        ses: Ses = vendor("ses", base_url=url, keys={"region": "eu-west-1"})
        return sanitize(ses.send(plain, attempt(seconds)), plain, ses)

    return make


def signed_by(server: HttpServer) -> list[tuple[str, str | None]]:
    """The id and the token of the credentials that each request was signed with."""
    heads = [request.headers for request in server.requests]
    ids = [head["authorization"].partition("Credential=")[2].partition("/")[0] for head in heads]
    return list(zip(ids, (head.get("x-amz-security-token") for head in heads), strict=True))


def without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("botocore", "botocore.session"):
        monkeypatch.setitem(sys.modules, name, None)


# --- the sources


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1"])
def test_ses_has_a_host_per_region(region: str, vendor: Vendors) -> None:
    keys = {"region": region, "access_key_id": "ID", "secret_access_key": "secret"}
    assert vendor("ses", keys=keys).config.base_url == f"https://email.{region}.amazonaws.com"


def test_the_keys_of_the_environment_need_no_botocore(
    send: Send, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_botocore(monkeypatch)
    environment(AWS_ACCESS_KEY_ID="ENVIRON-ID", AWS_SECRET_ACCESS_KEY="environ-secret")
    with HttpServer(ACCEPTED) as server:
        assert send(server.url).outcome is Outcome.ACCEPTED
    assert signed_by(server) == [("ENVIRON-ID", None)]


def test_a_container_lends_credentials_once_for_all_that_ask(
    send: Send, environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of-the-file")
    with HttpServer(LENT) as lender, HttpServer(ACCEPTED) as server:
        environment(
            **{FULL: f"{lender.url}/v2/credentials?id=7", f"{TOKEN}_FILE": f"{tmp_path}/token"}
        )
        results = [send(server.url) for _ in range(3)]
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert signed_by(server) == [("LENT-ID", "lent-token")] * 3
    told = [(r.path, r.headers["authorization"]) for r in lender.requests]
    assert told == [("/v2/credentials?id=7", "of-the-file")]


def test_a_machine_lends_the_credentials_of_its_role(send: Send, environment: Environment) -> None:
    def machine(wire: Wire, request: Received) -> None:
        if request.method == "PUT":
            Reply(200, {}, b"the-token")(wire, request)
        elif request.headers.get("x-aws-ec2-metadata-token") != "the-token":
            Reply(401)(wire, request)
        else:
            (Reply(200, {}, b"mail") if request.path == ROLES else LENT)(wire, request)

    with HttpServer(machine) as lender, HttpServer(ACCEPTED) as server:
        environment(**{MACHINE: lender.url, NO_MACHINE: "false"})
        assert send(server.url).outcome is Outcome.ACCEPTED
    assert signed_by(server) == [("LENT-ID", "lent-token")]
    told = [(r.method, r.path) for r in lender.requests]
    assert told == [("PUT", "/latest/api/token"), ("GET", ROLES), ("GET", ROLES + "mail")]


def test_a_profile_has_keys(send: Send, environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[mail]\naws_access_key_id = PROFILE-ID\naws_secret_access_key = profile-secret\n"
    )
    environment(AWS_PROFILE="mail")
    with HttpServer(ACCEPTED) as server:
        assert send(server.url).outcome is Outcome.ACCEPTED
    assert signed_by(server) == [("PROFILE-ID", None)]


def test_a_profile_names_a_program_that_prints_credentials(
    send: Send, environment: Environment, tmp_path: Path
) -> None:
    printed = {**SET, "SessionToken": SET["Token"], "Version": 1}
    (tmp_path / "printed.json").write_text(json.dumps(printed))
    command = f"{sys.executable} -c \"print(open('{tmp_path}/printed.json').read())\""
    (tmp_path / "config").write_text(f"[profile mail]\ncredential_process = {command}\n")
    environment(AWS_PROFILE="mail")
    with HttpServer(ACCEPTED) as server:
        assert send(server.url).outcome is Outcome.ACCEPTED
    assert signed_by(server) == [("LENT-ID", "lent-token")]


def test_a_profile_assumes_a_role_in_the_region_of_the_vendor(
    send: Send, environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        "[base]\naws_access_key_id = BASE-ID\naws_secret_access_key = base-secret\n"
    )
    role = "role_arn = arn:aws:iam::123456789012:role/mail\nsource_profile = base\n"
    (tmp_path / "config").write_text(f"[profile mail]\n{role}")
    sts = Reply(200, {}, ASSUMED.format("AssumeRole").encode())
    with HttpServer(sts) as lender, HttpServer(ACCEPTED) as server:
        environment(AWS_PROFILE="mail", AWS_ENDPOINT_URL_STS=lender.url)
        assert send(server.url).outcome is Outcome.ACCEPTED
    assert signed_by(server) == [("LENT-ID", "lent-token")]
    [asked] = lender.requests
    assert "Credential=BASE-ID/" in asked.headers["authorization"]
    assert "/eu-west-1/sts/aws4_request" in asked.headers["authorization"]


@pytest.fixture
def web_identity(environment: Environment, tmp_path: Path) -> Callable[[str], None]:
    """A pod whose token STS at this URL changes for credentials."""
    (tmp_path / "token").write_text("the-identity")

    def make(url: str) -> None:
        environment(
            AWS_ENDPOINT_URL_STS=url,
            AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"),
            AWS_ROLE_ARN="arn:aws:iam::123456789012:role/mail",
        )

    return make


def test_a_web_identity_is_changed_for_credentials(
    send: Send, web_identity: Callable[[str], None]
) -> None:
    sts = Reply(200, {}, ASSUMED.format("AssumeRoleWithWebIdentity").encode())
    with HttpServer(sts) as lender, HttpServer(ACCEPTED) as server:
        web_identity(lender.url)
        assert send(server.url).outcome is Outcome.ACCEPTED
    assert signed_by(server) == [("LENT-ID", "lent-token")]
    assert b"WebIdentityToken=the-identity" in lender.requests[0].body


# --- renewing them


def lender_of(*lives: timedelta | None) -> Callable[[Wire, Received], None]:
    """A container's endpoint: one set after the other, with these lives; None: a refusal."""
    sets = count(1)

    def behave(wire: Wire, request: Received) -> None:
        number = next(sets)
        life = lives[min(number, len(lives)) - 1]
        if life is None:
            Reply(500, {}, b"not for lent-secret")(wire, request)
            return
        ends = (datetime.now(UTC) + life).strftime("%Y-%m-%dT%H:%M:%SZ")
        lent = {**SET, "AccessKeyId": f"LENT-{number}", "Expiration": ends}
        Reply(200, {}, json.dumps(lent).encode())(wire, request)

    return behave


def test_credentials_are_renewed_before_they_end_while_others_send(
    send: Send, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_credentials, "CHECK_SECONDS", 0.0)  # look each time whether it is time
    lives = timedelta(minutes=12), timedelta(hours=6)
    with HttpServer(lender_of(*lives)) as lender, HttpServer(ACCEPTED) as server:
        environment(**{FULL: lender.url})

        def signs_with_the_second() -> bool:
            assert send(server.url).outcome is Outcome.ACCEPTED
            return signed_by(server)[-1][0] == "LENT-2"

        wait_until(signs_with_the_second)
    assert len(lender.requests) == 2


def test_credentials_that_cannot_be_renewed_are_used_while_they_hold(
    send: Send,
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.RETRY_ATTEMPTS", 1)
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    monkeypatch.setattr(aws_credentials, "CHECK_SECONDS", 0.0)
    lives = timedelta(minutes=12), timedelta(minutes=8), None
    with HttpServer(lender_of(*lives)) as lender, HttpServer(ACCEPTED) as server:
        environment(**{FULL: lender.url})

        def fails_to_renew() -> bool:
            assert send(server.url).outcome is Outcome.ACCEPTED
            return "credentials.not_renewed" in caplog.text

        wait_until(fails_to_renew)
        assert send(server.url).outcome is Outcome.ACCEPTED
    assert signed_by(server)[-1][0] == "LENT-2"
    assert "error=CredentialRetrievalError" in caplog.text
    assert "lent-secret" not in caplog.text


def test_a_forked_child_asks_for_credentials_of_its_own() -> None:
    script = """
import os
from mailqueue.vendors.aws.credentials import chain
before = chain("eu-west-1")
assert chain("eu-west-1") is before
child = os.fork()
if child == 0:
    os._exit(chain("eu-west-1") is before)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- why there are none


def test_without_any_credentials_nothing_is_sent_and_the_result_says_why(send: Send) -> None:
    with HttpServer(ACCEPTED) as server:
        result = send(server.url)
    assert result == SendResult(
        outcome=Outcome.MISCONFIGURED,
        code="credentials",
        detail="no keys, and no source of any",
        answered=False,
    )
    assert server.requests == []


def test_a_profile_that_is_not_there_is_a_matter_of_configuration(
    send: Send, environment: Environment
) -> None:
    environment(AWS_PROFILE="nobody")
    result = send("http://127.0.0.1:1")
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "credentials")
    assert result.detail == "ProfileNotFound"


@pytest.mark.parametrize(
    "status,outcome", [(403, Outcome.MISCONFIGURED), (501, Outcome.UNAVAILABLE)]
)
def test_what_a_refusal_of_a_role_means(
    status: int, outcome: Outcome, send: Send, web_identity: Callable[[str], None]
) -> None:
    with HttpServer(Reply(status, {}, REFUSED.encode())) as lender:
        web_identity(lender.url)
        result = send("http://127.0.0.1:1")
    assert (result.outcome, result.code) == (outcome, "credentials")
    assert result.detail == "ClientError AccessDenied"


def test_a_token_does_not_go_to_just_any_host(send: Send, environment: Environment) -> None:
    environment(**{FULL: "http://metadata.example.org/", TOKEN: "the-token"})
    assert send("http://127.0.0.1:1").outcome is Outcome.MISCONFIGURED


@pytest.mark.parametrize("behaviour", [hang, drip_headers(LENT)], ids=["hang", "drip"])
def test_a_source_that_is_too_slow_is_given_up_at_the_attempts_deadline(
    behaviour: Callable[[Wire, Received], None], send: Send, environment: Environment
) -> None:
    with HttpServer(behaviour) as lender, HttpServer(ACCEPTED) as server:
        environment(**{FULL: lender.url})
        deadline = time.monotonic() + 0.3
        result = send(server.url, 0.3)
        assert time.monotonic() < deadline + 8  # one that waited for it would take 10
    assert (result.outcome, result.code) == (Outcome.UNAVAILABLE, "credentials")
    assert server.requests == []


# --- redaction


@pytest.mark.parametrize("source", ["container", "web identity"])
def test_nothing_that_is_lent_is_quoted_or_logged(
    source: str,
    send: Send,
    environment: Environment,
    web_identity: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    quoted = json.dumps({"message": "bad: LENT-ID lent-secret lent-token"}).encode()
    sts = Reply(200, {}, ASSUMED.format("AssumeRoleWithWebIdentity").encode())
    container = source == "container"
    with HttpServer(LENT if container else sts) as lender, HttpServer(Reply(403, {}, quoted)) as s:
        if container:
            environment(**{FULL: lender.url, TOKEN: "the-identity"})
        else:
            web_identity(lender.url)
        result = send(s.url)
    assert result.outcome is Outcome.MISCONFIGURED
    assert signed_by(s) == [("LENT-ID", "lent-token")]
    chain = aws_credentials.chain("eu-west-1")
    shown = f"{result} {chain!r} {chain.current(0)!r} {caplog.text}".lower()
    assert not [word for word in ("lent", "the-identity") if word in shown]


def test_a_level_that_the_application_set_for_botocore_stays(
    send: Send, environment: Environment
) -> None:
    environment(AWS_PROFILE="nobody")
    logging.getLogger("botocore").setLevel(logging.DEBUG)
    send("http://127.0.0.1:1")
    assert logging.getLogger("botocore").level == logging.DEBUG


# --- the extra


def test_without_botocore_an_ses_of_no_keys_cannot_be_made_and_says_what_to_install(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_botocore(monkeypatch)
    config = VendorConfig(name="first", type="ses", keys={"region": "eu-west-1"})
    with pytest.raises(MissingExtra) as missing:
        Ses(config)
    assert missing.value.extra == "ses"
    with pytest.raises(ConfigError) as refused:
        load(config, simulated=False)
    [problem] = refused.value.problems
    assert problem == f"vendors.first: {missing.value}"
    assert problem.endswith("is not installed: pip install 'mailqueue[ses]'")
    load(config, simulated=True).close()


def test_without_botocore_an_attempt_is_misconfigured(
    vendor: Vendors,
    environment: Environment,
    plain: Email,
    attempt: Attempts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after an upgrade of the environment while the consumer runs."""
    ses = vendor("ses", base_url="http://127.0.0.1:1", keys={"region": "eu-west-1"})
    without_botocore(monkeypatch)
    result = ses.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "credentials")
    assert "pip install 'mailqueue[ses]'" in result.detail
