"""What only Mailtrap does: its 401 says the same for a wrong token and for an unverified domain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Email
from mailqueue.vendors.mailtrap import Mailtrap
from tests.contract import mailtrap
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HttpServer, Reply

REFUSED = Reply(401, {}, b'{"success": false, "errors": ["Unauthorized"]}')
OK, UNSUITABLE = Outcome.ACCEPTED, Outcome.UNSUITABLE
WRONG = Outcome.MISCONFIGURED


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(mailtrap.CASE.accepted) as server:
        yield server


def _from(domain: str) -> Email:
    return Email(from_=f"a@{domain}", to="b@example.net", subject="s", text="t")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([("a.org", WRONG), ("a.org", WRONG)], id="nothing-was-ever-accepted"),
        pytest.param(
            [("a.org", OK), ("b.org", UNSUITABLE), ("B.org", UNSUITABLE)], id="the-token-is-good"
        ),
        pytest.param([("a.org", OK), ("a.org", WRONG)], id="the-domain-was-good"),
        pytest.param(
            [("a.org", OK), ("b.org", UNSUITABLE), ("c.org", WRONG), ("b.org", WRONG)],
            id="two-domains-are-refused",
        ),
        pytest.param(
            [("a.org", OK), ("b.org", UNSUITABLE), ("a.org", OK), ("c.org", UNSUITABLE)],
            id="one-domain-each-time",
        ),
    ],
)
def test_a_refusal_is_the_domains_fault_only_while_the_token_is_known_to_be_good(
    steps: list[tuple[str, Outcome]], server: HttpServer, vendor: Vendors, attempt: Attempts
) -> None:
    made = vendor("mailtrap", base_url=server.url, keys=mailtrap.CASE.keys)
    for domain, outcome in steps:
        server.behaviour = mailtrap.CASE.accepted if outcome is OK else REFUSED
        assert made.send(_from(domain), attempt()).outcome is outcome


def test_a_firewalls_page_says_nothing_about_the_domain(
    server: HttpServer, vendor: Vendors, attempt: Attempts
) -> None:
    made = vendor("mailtrap", base_url=server.url, keys=mailtrap.CASE.keys)
    assert made.send(_from("a.org"), attempt()).outcome is OK
    server.behaviour = Reply(403, {"Content-Type": "text/html"}, b"<html>Blocked</html>")
    assert made.send(_from("b.org"), attempt()).outcome is Outcome.UNAVAILABLE


def test_the_sandbox_has_a_host_of_its_own_and_does_not_exist_without_an_inbox(
    vendor: Vendors,
) -> None:
    keys = mailtrap.CASE.keys
    made = vendor("mailtrap", keys=keys, sandbox=True, options={"inbox_id": 42})
    assert isinstance(made, Mailtrap)
    assert made.config.base_url == "https://sandbox.api.mailtrap.io"
    assert vendor("mailtrap", keys=keys).config.base_url is None
    with pytest.raises(ConfigError, match=r"vendors\.first\.options\.inbox_id"):
        vendor("mailtrap", keys=keys, sandbox=True)
