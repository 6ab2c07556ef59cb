"""Django's messages, as mailqueue gets them: real Django, and e-mails kept in memory."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from email.message import MIMEPart
from email.mime.image import MIMEImage
from typing import Any

import pytest

from mailqueue import Address, Alternative, Config, InvalidEmail, Producer, StoreUnavailable
from mailqueue.message import Email
from mailqueue.testing import Outbox, SentEmail
from tests import django_settings

django_settings.configure()

from django.core import checks, mail  # noqa: E402  # Django wants its settings first
from django.core.mail import EmailMessage, EmailMultiAlternatives  # noqa: E402  # see above
from django.test import override_settings  # noqa: E402  # see above
from django.utils.translation import gettext_lazy  # noqa: E402  # see above

from mailqueue.django import EmailBackend  # noqa: E402  # see above

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def outbox(mailqueue_outbox: Outbox) -> Outbox:
    return mailqueue_outbox


def message(**attributes: Any) -> EmailMultiAlternatives:
    """A message; those attributes that Django does not know are set on it."""
    one = EmailMultiAlternatives("Hi", "Hello", "ann@example.com", ["bob@example.org"])
    for name, value in attributes.items():
        setattr(one, name, value)
    return one


def sent(outbox: Outbox) -> SentEmail:
    (item,) = outbox
    return item


def email(outbox: Outbox, **attributes: Any) -> Email:
    """What is stored of a message with these attributes."""
    assert EmailBackend().send_messages([message(**attributes)]) == 1
    return sent(outbox).email


# Django's own functions --------------------------------------------------------------------------


def test_send_mail_stores_text_and_html(outbox: Outbox) -> None:
    count = mail.send_mail(
        "Grüße", "Hallo", None, ["Bob <bob@example.org>"], html_message="<p>Hallo</p>"
    )
    email = sent(outbox).email
    assert count == 1
    assert (email.from_, email.to) == (
        Address("Shop", "shop@example.com"),
        (Address("Bob", "bob@example.org"),),
    )
    assert (email.subject, email.text, email.html) == ("Grüße", "Hallo", "<p>Hallo</p>")


def test_send_mass_mail_stores_each_message_with_an_id_of_its_own(outbox: Outbox) -> None:
    data = [(f"Nr {n}", "Hi", None, [f"{n}@example.org"]) for n in range(3)]
    assert mail.send_mass_mail(data) == 3
    assert [item.email.subject for item in outbox] == ["Nr 0", "Nr 1", "Nr 2"]
    assert len({item.id for item in outbox}) == 3


def test_a_message_knows_its_id_which_the_producer_knows_too(outbox: Outbox) -> None:
    one = message()
    assert one.send() == 1
    status = Producer().status(one.mailqueue_id)
    assert status is not None
    assert status.status == "queued"


def test_a_message_without_recipients_is_not_sent_and_is_no_error(outbox: Outbox) -> None:
    nobody = message(to=[])
    assert EmailBackend().send_messages([nobody, message()]) == 1
    assert nobody.mailqueue_id is None
    assert EmailBackend().send_messages([]) == 0
    assert len(outbox) == 1


# The message -------------------------------------------------------------------------------------


def test_every_recipient_is_kept_where_it_is(outbox: Outbox) -> None:
    people = {f: [f"{f}@example.org"] for f in ("to", "cc", "bcc", "reply_to")}
    got = email(outbox, **people).to_mapping()
    assert {field: got[field] for field in people} == people


def test_headers_are_kept_and_those_that_django_shows_instead_are_shown(outbox: Outbox) -> None:
    headers = {
        "X-Order": 4711,
        "List-Unsubscribe": "<https://example.com/u>",
        "Reply-To": "Ann <a@example.com>, b@example.com",
        "Message-ID": "<own@example.com>",
    }
    got = email(outbox, extra_headers=headers)
    assert dict(got.headers) == {"X-Order": "4711", "List-Unsubscribe": "<https://example.com/u>"}
    assert got.reply_to == (Address("Ann", "a@example.com"), Address("", "b@example.com"))
    assert got.message_id == "<own@example.com>"


def test_addresses_in_headers_are_shown_and_the_messages_own_are_its_envelope(
    outbox: Outbox,
) -> None:
    headers = {"From": "Ann <ann@example.com>", "to": "List <list@example.org>"}
    got = email(outbox, from_email="bounces@example.com", extra_headers=headers)
    assert (got.from_, got.to) == (
        Address("Ann", "ann@example.com"),
        (Address("List", "list@example.org"),),
    )
    assert got.envelope is not None
    assert got.envelope.to_mapping() == {
        "from": "bounces@example.com",
        "recipients": ["bob@example.org"],
    }
    assert [person.address for person in got.recipients] == ["bob@example.org"]


def test_recipients_need_not_be_shown(outbox: Outbox) -> None:
    got = email(outbox, extra_headers={"To": "undisclosed-recipients:;"})
    assert (got.to, got.envelope) == ((), None)
    assert [person.address for person in got.bcc] == ["bob@example.org"]


@pytest.mark.parametrize("sender", ["bounces@example.com", ""], ids=["another", "nobody"])
def test_the_envelopes_sender_is_who_hears_of_bounces(outbox: Outbox, sender: str) -> None:
    envelope = email(outbox, envelope_sender=sender).envelope
    assert envelope is not None
    assert envelope.to_mapping() == {"from": sender}


def test_a_body_of_html_alone_has_no_text(outbox: Outbox) -> None:
    got = email(outbox, content_subtype="html", body="<p>Hi</p>")
    assert (got.text, got.html) == (None, "<p>Hi</p>")


def test_an_empty_body_is_a_body_but_beside_others_it_is_none(outbox: Outbox) -> None:
    assert email(outbox, body="").text == ""
    outbox.clear()
    one = message(body="")
    one.attach_alternative("<p>Hi</p>", "text/html")
    one.send()
    assert (sent(outbox).email.text, sent(outbox).email.html) == (None, "<p>Hi</p>")


def test_other_forms_of_the_body_are_alternatives(outbox: Outbox) -> None:
    one = message()
    one.attach_alternative("<p>Hi</p>", "text/html")
    one.attach_alternative("BEGIN:VCALENDAR", "text/calendar; method=REQUEST")
    one.send()
    (form,) = sent(outbox).email.alternatives
    kind = "text/calendar; method=REQUEST; charset=utf-8"
    assert form == Alternative(b"BEGIN:VCALENDAR", kind)


def test_files_are_attached_as_they_are(outbox: Outbox) -> None:
    one = message()
    one.attach("größe.txt", "Größe", "text/plain")
    one.attach("data.bin", b"\x00\xff")
    one.attach("latin.txt", b"\xe9", "text/plain")  # not UTF-8: Django makes it a binary file
    one.send()
    files = [(f.filename, f.content, f.content_type) for f in sent(outbox).email.attachments]
    assert files == [
        ("größe.txt", "Größe".encode(), "text/plain; charset=utf-8"),
        ("data.bin", b"\x00\xff", "application/octet-stream"),
        ("latin.txt", b"\xe9", "application/octet-stream"),
    ]


def test_an_attached_message_stays_a_message(outbox: Outbox) -> None:
    one = message()
    one.attach("mail.eml", message(subject="Inner"), "message/rfc822")
    one.send()
    (file,) = sent(outbox).email.attachments
    assert (file.filename, file.content_type) == ("mail.eml", "message/rfc822")
    assert b"Subject: Inner\r\n" in file.content


def _mime_base() -> Any:
    image = MIMEImage(PNG, "png")
    image.add_header("Content-ID", "<logo>")
    image.add_header("Content-Disposition", "inline", filename="logo.png")
    return image


def _mime_part() -> Any:
    part = MIMEPart()
    part.set_content(PNG, "image", "png", disposition="inline", filename="logo.png", cid="<logo>")
    return part


@pytest.mark.parametrize("part", [_mime_base(), _mime_part()], ids=["MIMEBase", "MIMEPart"])
def test_an_inline_image_is_one_that_the_html_shows(outbox: Outbox, part: Any) -> None:
    """However it was attached: Django 5.2 takes the old classes, 6 the new ones."""
    html = [('<img src="cid:logo">', "text/html")]
    (file,) = email(outbox, alternatives=html, attachments=[part]).attachments
    assert (file.filename, file.content, file.content_type) == ("logo.png", PNG, "image/png")
    assert file.content_id == "logo"


def test_texts_may_be_lazy(outbox: Outbox) -> None:
    got = email(
        outbox,
        subject=gettext_lazy("Hi"),
        body=gettext_lazy("Hello"),
        from_email=gettext_lazy("ann@example.com"),
        tags=[gettext_lazy("welcome")],
        metadata={"kind": gettext_lazy("first")},
    )
    assert (got.subject, got.text, got.tags) == ("Hi", "Hello", ("welcome",))
    assert got.metadata == {"kind": "first"}


# Attributes of Anymail and our own ---------------------------------------------------------------


def test_tags_metadata_and_options_go_to_the_vendor(outbox: Outbox) -> None:
    options = {"sendgrid": {"ip_pool_name": "a"}}
    got = email(outbox, tags=["welcome"], metadata={"order": 4711}, vendor_options=options)
    assert (got.tags, got.metadata) == (("welcome",), {"order": "4711"})
    assert got.vendor_options == options


def test_priority_times_and_key_are_those_of_the_send(outbox: Outbox) -> None:
    at, until = datetime(2027, 1, 1, 9, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)
    options = {"priority": "high", "send_at": at, "expires_at": until, "idempotency_key": "k"}
    one, again = message(**options), message(**options)
    assert (one.send(), again.send()) == (1, 1)
    assert again.mailqueue_id == one.mailqueue_id
    item = sent(outbox)
    assert (item.priority, item.send_at, item.expires_at) == ("high", at, until)
    assert item.idempotency_key == "k"


@pytest.mark.parametrize(
    "value,at",
    [
        (1_800_000_000, datetime.fromtimestamp(1_800_000_000, UTC)),
        (date(2027, 7, 1), datetime(2027, 6, 30, 22, tzinfo=UTC)),
    ],
    ids=["seconds", "date"],
)
def test_a_time_may_be_given_in_the_forms_of_anymail(
    outbox: Outbox, value: Any, at: datetime
) -> None:
    email(outbox, send_at=value)
    assert sent(outbox).send_at == at


def test_a_naive_time_is_in_the_current_time_zone_and_django_warns(outbox: Outbox) -> None:
    with pytest.warns(RuntimeWarning, match="send_at is naive while USE_TZ is on"):
        email(outbox, send_at=datetime(2027, 7, 1, 12))  # noqa: DTZ001  # that is the point
    assert sent(outbox).send_at == datetime(2027, 7, 1, 10, tzinfo=UTC)


def test_without_time_zones_a_naive_time_is_in_the_projects(outbox: Outbox) -> None:
    with override_settings(USE_TZ=False):
        email(outbox, send_at=datetime(2027, 1, 1, 12))  # noqa: DTZ001  # the same
    assert sent(outbox).send_at == datetime(2027, 1, 1, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    "name,value",
    [
        ("esp_extra", {"ip_pool_name": "a"}),
        ("template_id", "welcome"),
        ("merge_data", {"bob@example.org": {"name": "Bob"}}),
        ("merge_global_data", {"a": 1}),
        ("merge_headers", {"bob@example.org": {"X-A": "1"}}),
        ("merge_metadata", {"bob@example.org": {"a": 1}}),
        ("track_opens", False),
        ("track_clicks", True),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(
    outbox: Outbox, name: str, value: Any
) -> None:
    with pytest.raises(InvalidEmail) as caught:
        message(**{name: value}).send()
    assert (caught.value.field, caught.value.index) == (name, 0)
    assert len(outbox) == 0


def test_the_class_of_anymail_works_and_its_unset_attributes_are_absent(outbox: Outbox) -> None:
    from anymail.message import AnymailMessage

    one = AnymailMessage("Hi", "Hello", None, ["bob@example.org"], tags=["welcome"], esp_extra={})
    cid = one.attach_inline_image(PNG, "logo.png", "png")
    one.attach_alternative(f'<img src="cid:{cid}">', "text/html")
    assert one.send() == 1
    got = sent(outbox).email
    assert (got.tags, got.attachments[0].content_id) == (("welcome",), cid)


# What goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes,field",
    [
        ({"to": ["bob@example.org", "nobody"]}, "to[1]"),
        ({"subject": "Hi\nBcc: eve@example.net"}, "subject"),
        ({"extra_headers": {"To": "eve <"}}, "to"),
        ({"extra_headers": {"Bcc": "eve@example.net"}}, "headers.Bcc"),
        ({"extra_headers": {"X-A": "1\r\nBcc: eve@example.net"}}, "headers.X-A"),
        ({"priority": "urgent"}, "priority"),
        ({"send_at": "tomorrow"}, "send_at"),
        ({"send_at": 1e30}, "send_at"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"metadata": 7}, "metadata"),
        ({"attachments": [("a", object(), "text/plain")]}, "attachments[0].content"),
        ({"attachments": [7]}, "email"),
        ({"alternatives": [("<p>", "text/html"), ("<b>", "text/html")]}, "alternatives[0]"),
    ],
)
def test_a_bad_message_is_refused_by_field_and_nothing_of_it_is_quoted(
    outbox: Outbox, attributes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidEmail) as caught:
        message(**attributes).send()
    assert caught.value.field.startswith(field)
    assert "eve" not in str(caught.value)
    assert len(outbox) == 0


def test_one_bad_message_keeps_no_other_from_being_sent(outbox: Outbox) -> None:
    messages = [message(), message(to=["nobody"]), message(), message(esp_extra={"a": 1})]
    with pytest.raises(InvalidEmail) as caught:
        EmailBackend().send_messages(messages)
    assert (caught.value.field, caught.value.index) == ("to[0]", 1)
    assert [bool(each.mailqueue_id) for each in messages] == [True, False, True, False]
    assert EmailBackend(fail_silently=True).send_messages(messages) == 2
    assert len(outbox) == 4


def test_what_no_vendor_carries_is_refused_and_the_others_are_sent() -> None:
    vendor = {"name": "first", "type": "scaleway", "secret_key": "x", "project_id": "y"}
    config = Config.from_mapping({"vendors": [vendor]})
    with Outbox(config) as outbox, override_settings(MAILQUEUE_CONFIG="a.json"):
        with pytest.raises(InvalidEmail, match="first: subject or body shorter than 10"):
            EmailBackend().send_messages([message(), message(subject="x" * 10, body="y" * 10)])
        assert sent(outbox).email.text == "y" * 10


def test_a_store_that_is_away_is_raised_unless_silence_is_wanted(outbox: Outbox) -> None:
    outbox.fail_next(StoreUnavailable, times=2)
    one = message()
    with pytest.raises(StoreUnavailable) as caught:
        one.send()
    assert len(caught.value.ids_unknown) == 1
    assert one.mailqueue_id is None
    assert EmailBackend(fail_silently=True).send_messages([one]) == 0
    assert EmailBackend(fail_silently=True).send_messages([one]) == 1


def test_the_log_names_the_field_of_a_refused_message_and_nothing_of_its_content(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.fail_next(StoreUnavailable("away"))
    silent = EmailBackend(fail_silently=True)
    silent.send_messages([message()])
    silent.send_messages([message(to=["nobody"])])
    away, refused = [record.getMessage() for record in caplog.records]
    assert away == "email.not_stored error=away"
    assert refused.startswith('email.refused field=to[0] problem="is not a valid e-mail address:')
    assert "nobody" not in refused


class ToAdmins(logging.Handler):
    """As Django's ``AdminEmailHandler``, for every line."""

    def emit(self, record: logging.LogRecord) -> None:
        EmailBackend(fail_silently=True).send_messages([message(subject=record.getMessage())])


def test_a_log_handler_that_mails_does_not_mail_about_its_own_mail(outbox: Outbox) -> None:
    logger, handler = logging.getLogger("mailqueue.django"), ToAdmins()
    logger.addHandler(handler)
    try:
        outbox.fail_next(StoreUnavailable("away"), times=3)
        for _ in range(2):
            assert EmailBackend(fail_silently=True).send_messages([message()]) == 0
    finally:
        logger.removeHandler(handler)
    assert [item.email.subject for item in outbox] == ["email.not_stored error=away"]


# Configuration -----------------------------------------------------------------------------------


@pytest.mark.skipif(not django_settings.HAS_MAILERS, reason="Django 6.1 has mailers")
def test_a_mailer_has_its_own_options(outbox: Outbox) -> None:
    outbox.fail_next(StoreUnavailable)
    assert mail.mailers["silent"].send_messages([message()]) == 0
    assert mail.mailers["silent"].alias == "silent"
    assert message().send(using="default") == 1


def test_the_system_check_names_every_problem_of_the_configuration(outbox: Outbox) -> None:
    assert "mailqueue.E001" not in {each.id for each in checks.run_checks()}
    with override_settings(MAILQUEUE_CONFIG={"mongodb": {"timeout": -1}, "limitz": {}}):
        found = [each for each in checks.run_checks() if each.id == "mailqueue.E001"]
    assert [each.msg.partition(":")[0] for each in found] == ["limitz", "mongodb.timeout"]


def test_backends_of_one_configuration_share_a_producer() -> None:
    from mailqueue.django.backend import producer_for

    mapping = {"mongodb": {"database": "shop"}}
    with override_settings(MAILQUEUE_CONFIG=mapping):
        assert producer_for() is producer_for(dict(mapping))
        assert producer_for() is not producer_for({"mongodb": {"database": "blog"}})
        assert producer_for().config.mongodb.database == "shop"


def test_a_plain_message_of_django_works_too(outbox: Outbox) -> None:
    assert EmailMessage("Hi", "Hello", None, ["bob@example.org"]).send() == 1
    assert sent(outbox).email.html is None
