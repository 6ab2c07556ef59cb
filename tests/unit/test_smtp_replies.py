"""Whose fault a refusal is: replies as real servers give them."""

from __future__ import annotations

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.vendors.wire import smtp_replies
from mailqueue.vendors.wire.smtp_replies import Step
from tests.backtracking import Steps
from tests.for_each import for_each

CONNECT, LOGIN, SENDER, RCPT, MESSAGE = Step


def replied(step: Step, reply: str, *, alone: bool = True) -> Outcome:
    """What a whole reply, with its codes, comes to."""
    lines = reply.split("\n")
    body = "\n".join(line[4:] for line in lines)
    return smtp_replies.result(step, int(lines[0][:3]), body.encode(), alone=alone).outcome


OF_THE_RECIPIENT = [
    "550 5.1.1 <bob@x.org>: Recipient address rejected: User unknown in relay recipient table",
    "550 5.1.1 <bob@x.org>: Recipient address rejected: User unknown in virtual mailbox table",
    (
        "550-5.1.1 The email account that you tried to reach does not exist. Please try\n550-5.1.1 "
        "double-checking it.\n550 5.1.1  https://x.org/?p=NoSuchUser a1 - gsmtp"
    ),
    "550-No mailbox of that name\n550 5.1.1 is here",
    "550 5.1.1 <quota-exceeded@x.org> User unknown",
    "550 5.1.2 Bad destination system address",
    "501 5.1.3 Bad recipient address syntax",
    "550 5.1.6 recipient no longer on server",
    "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
    "556 5.1.10 Recipient address has null MX",
    "556 domain does not accept mail",
    "550 5.2.1 The email account that you tried to reach is disabled. Learn more",
    "550 5.2.2 Mailbox full",
    "554 5.2.2 <bob@x.org>: Quota exceeded (mailbox for user is full)",
    "550 sorry, no mailbox here by that name. (#5.1.1)",
    "550 No such user here",
    "550 No such user on this server",
    "550 Mailbox does not exist on this system",
    "550 Error: no such user",
    "550 Recipient rejected",
    "553 mailbox name not allowed",
    "550 Unrouteable address",
    "550 Requested action not taken: mailbox unavailable",
    "551 User not local; please try <bob@y.org>",
    "553 Requested action not taken: mailbox name not allowed",
    "550 User not listed in public Name & Address Book",
    "550 This account has been disabled",
    "550 spam@x.org unknown user",
    "550 <account.suspended@x.org> no such user",
    "550 Benutzer unbekannt",
    "550 Пользователь не найден",
    "550 Unbekannter Empfänger",
    "550 Postfach existiert nicht",
    "550 Boîte aux lettres inexistante",
    "550 Adresse d au moins un destinataire invalide. Invalid recipient.",
    "550 邮箱不存在",
    "550 收件人不存在",
    "550 宛先が見つかりません",
    "550 no",
    "550",
]

NOT_OF_THE_RECIPIENT = [
    "554 5.7.1 <bob@x.org>: Relay access denied",
    "550 5.1.1 relaying denied",
    "550 5.7.54 Unable to relay recipient in non-accepted domain",
    "550 relay not permitted",
    "550 not local host x.org, not a gateway",
    "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
    "553 sorry, that domain isn't in my list of allowed rcpthosts",
    "550 authentication required",
    "550-Verification failed for <ann@x.org>\n550-Unrouteable address\n550 Sender verify failed",
    "550 5.1.8 <ann@x.org>: Sender address rejected: Domain not found",
    "550 5.7.27 Sender address has null MX",
    "550 5.1.0 sender rejected",
    "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied",
    "550 Administrative prohibition",
    "550 5.4.1 Recipient address rejected: Access denied",
    "550 5.7.1 recipient address suppressed due to customer policy",
    "554 5.7.1 Service unavailable; Client host [192.0.2.4] blocked using bl.example.org",
    "550 Service unavailable; Client host [192.0.2.4] blocked using bl.example.org",
    "550 5.7.26 Unauthenticated email is not accepted due to the domain's DMARC policy",
    "550 message looks like spam",
    "550 5.7.10 TLS required",
    "550 encryption needed",
    "504 5.5.2 <x>: Helo command rejected: need fully-qualified hostname",
    "503 5.5.1 bad sequence of commands",
    "502 what",
    "500 what",
    "550 4.7.1 try again",
    "550 4.1.1 unverified",
    "550 5.7.1 recipient 5.1.1 unknown",
    "550-5.1.1 unknown\n550 5.7.1 policy",
    "550 5.0.0 no",
    "550 5.1.1.7 is where I live, go away, spam",
    "550 Relay-Zugriff verweigert",
    "550 Absender nicht zugelassen",
    "550 邮件内容被拒绝",
    "550 MI:SPB 163 mx1,DMCowABn",
    "550 Service unavailable",
    "550 Internal error",
    "550 Transaction failed",
    "550 Server busy",
    "550 LDAP lookup failed",
    "550 Unable to verify recipient",
    "550 Connection timed out",
    "550 POP before SMTP required",
    "550 STARTTLS required",
    "550 Sending from dynamic IP addresses is not allowed",
    "550 That domain isn't in my list",
    "550 Suspicious activity",
    "550 Command not allowed",
    "550 Rejected",
    "550 Nachricht abgelehnt",
    "550 Weiterleitung nicht gestattet",
    "550 Votre message a été rejeté",
    "550 Mensaje rechazado",
    "550 不允许转发",
    "550 认证失败",
    "550 中継は許可されていません",
    "550 迷惑メールと判定されました",
    "550 Suspected bounce attacks",
    "550 You are not allowed to use this server",
    "550 You are not on our whitelist",
    "550 Your message was not accepted",
    "550 verification failed",
    "551 not our customer",
    "550 HELO should be a FQDN or address literal",
    "550 5.7.1 HELO/EHLO rejected",
    "552-5.2.3 Your message exceeded Google's message size limits",
    "550 Nachricht überschreitet die maximale Größe",
    "554 delivery error: dd This user doesn't have an account",
    "552 5.3.4 Message size exceeds fixed limit",
]

FOR_NOW = [
    "452 4.5.3 Too many recipients",
    "552 Too many recipients",
    "552 5.5.3 too many recipients",
    "552 5.2.2 The email account that you tried to reach is over quota",
    "452 4.2.2 The email account that you tried to reach is over quota",
    (
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents "
        "additional messages from being delivered. Please resend your message at a later time."
    ),
    "450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
    "450 5.1.1 unknown",
    "450 4.7.1 <bob@x.org>: Recipient address rejected: Greylisted, see http://x.org/help",
    "451 4.7.1 Greylisting in action, please come back in 00:05:00",
    "452 4.3.1 Insufficient system storage",
    "452 Postfach voll, Kontingent überschritten",
    "452 Quota du destinataire dépassé",
    "452 邮箱配额不足",
    "452 4.5.3 Your message has too many recipients. For more on sending limits see https://x.org",
    "451 4.5.1 The recipient <bob@x.org> has exceeded message rate limit. Try again later.",
]


@for_each("reply", OF_THE_RECIPIENT)
def test_only_a_refusal_that_speaks_of_the_recipient_ends_the_email(reply: str) -> None:
    assert replied(RCPT, reply) is Outcome.REJECTED
    assert replied(SENDER, reply) is not Outcome.REJECTED


@for_each("reply", NOT_OF_THE_RECIPIENT)
def test_relaying_the_sender_and_a_policy_are_no_fault_of_the_recipient(reply: str) -> None:
    for step in (SENDER, RCPT, MESSAGE):
        assert replied(step, reply) is Outcome.UNSUITABLE


@for_each("reply", FOR_NOW)
def test_what_is_only_for_now_is_tried_again(reply: str) -> None:
    assert replied(RCPT, reply) is Outcome.DEFERRED


def test_after_the_message_a_recipient_is_refused_only_by_a_code_and_if_it_is_the_only_one() -> (
    None
):
    assert replied(MESSAGE, "550 5.1.1 no such user") is Outcome.REJECTED
    assert replied(MESSAGE, "550 5.1.1 no such user", alone=False) is Outcome.UNSUITABLE
    assert replied(MESSAGE, "550 no such user") is Outcome.UNSUITABLE


QUOTA = [
    "550 5.4.5 Daily user sending quota exceeded. a1 - gsmtp",
    "550 5.7.1 Daily SMTP relay limit exceeded for customer",
    "554 5.7.1 <bob@x.org>: Recipient address rejected: You have exceeded your Outmail quota",
    "552 Message would take you over your relay quota of 500 Current quota used: 487",
    "550 User ann@x.org has exceeded its 24-hour sending limit. Messages to 25 recipients of 25",
    "450 Your account reached its email quota limit. Contact support to increase it. #MS42204",
    "554 5.7.1 <DATA>: Data command rejected: only 10 messages per day",
    "454 Throttling failure: Daily message quota exceeded",
    "451 Authentication failed: Maximum credits exceeded",
    "550 5.2.2 Submission quota exceeded",
    "550 5.7.705 Access denied, tenant has exceeded threshold",
    "550 monthly limit reached",
    "554 quota exceeded",
    "450 Requested mail action not taken: mailbox unavailable; Mail send limit exceeded.",
    "550 5.7.0 The email limit is reached. Please upgrade your plan https://x.org/billing",
    "550 insufficient funds",
    "550 5.7.1 You have reached the maximum number of emails you can send today",
    "550 5.7.1 Sie haben Ihr Tageslimit erreicht",
    "550 Versandlimit überschritten",
    "550 Limite d'envoi quotidienne atteinte",
    "550 超过每日发送限额",
    "550 送信数の上限に達しました",
]
SUSPENDED = [
    "550 5.7.1 account suspended",
    "550 Account suspended",
    "554 Sending paused for this account. For more information, check your inbox",
    "554 Sending suspended for this account",
    "554 Your account has been blocked",
    "535 5.7.8 Your account is disabled",
    "550 Domain x.org is not allowed to send: Account Terminated",
    "502 5.7.0 Your SMTP account is not yet activated",
    "554 5.1.8 Email Outgoing Blocked",
    "535 Your trial has expired",
    "550 Outgoing mail from x.org has been suspended",
    "550 Ihr Konto wurde gesperrt",
    "550 Votre compte est suspendu",
    "550 Su cuenta ha sido suspendida",
    "554 账号已被禁用",
]
PACE = [
    "450 4.7.1 Error: too much mail from 192.0.2.4",
    "550 Domain x.org has exceeded the max emails per hour (150/150 (100%)) allowed.",
    "450 4.2.1 Peak SMTP relay limit exceeded for customer. This is a temporary error.",
    "550 5.7.1 Our system has detected an unusual rate of unsolicited mail from your IP address",
    "550 5.7.1 Sender rate overlimit - 12.3 / 1h",
    "554 Throttling failure: Maximum sending rate exceeded.",
    "550 5.7.0 Too many login attempts, please slow down",
    "550 hourly sending limit reached",
    "550 5.7.0 Requested action not taken: too many emails per second",
    "550 Ip frequency limited [MxM0Y1]",
    "550 Sender frequency limited",
    "550 Zu viele Nachrichten in kurzer Zeit",
    "550 Trop de messages",
    "554 发送频率过高",
    "554 MI:DMC 163 smtp8,DMCowABn 发信过于频繁",
    "451 4.7.650 The mail server [192.0.2.4] has been temporarily rate limited due to reputation",
]
CROWDED = [
    "421 4.7.0 mx Error: too many connections from 192.0.2.4",
    "421 Too many concurrent SMTP connections from this IP address; please try again later.",
    "554 too many connections",
    "550 Maximum number of concurrent sessions reached",
    "432 4.3.2 Concurrent connections limit exceeded. Visit https://x.org/concurrent_sending",
    "535 5.7.8 Too many connections per account",
    "451 4.3.2 Connection rate limit exceeded",
    "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
    "450 zu viele gleichzeitige Verbindungen",
    "421 连接数超过限制",
]


@for_each("step", Step)
def test_a_spent_quota_and_a_suspended_account_are_the_accounts_at_every_step(step: Step) -> None:
    assert dict.fromkeys(QUOTA + SUSPENDED, Outcome.MISCONFIGURED) == {
        reply: replied(step, reply) for reply in QUOTA + SUSPENDED
    }


@for_each("step", Step)
def test_a_rate_and_too_many_connections_are_our_pace_at_every_step(step: Step) -> None:
    assert dict.fromkeys(PACE + CROWDED, Outcome.THROTTLED) == {
        reply: replied(step, reply) for reply in PACE + CROWDED
    }


def test_too_many_connections_are_known_in_any_wording() -> None:
    others = [*OF_THE_RECIPIENT, *NOT_OF_THE_RECIPIENT, *FOR_NOW, *QUOTA, *PACE]
    replies = CROWDED + others
    assert [
        reply for reply in replies if smtp_replies.has_too_many_connections(reply[4:])
    ] == CROWDED


def test_what_only_words_say_from_mail_on_may_be_due_to_this_email() -> None:
    for step in (SENDER, RCPT, MESSAGE):
        assert smtp_replies.result(step, 550, b"account suspended").content_suspect
        assert not smtp_replies.result(step, 421, b"too many connections").content_suspect
        assert not smtp_replies.result(step, 550, b"5.1.1 unknown").content_suspect
    assert not smtp_replies.result(LOGIN, 550, b"account suspended").content_suspect


@for_each("name", ["_ENHANCED_FIRST", "_ENHANCED", "_NO_WORDS", "_MAILBOX"])
@for_each("shape", ["\n", " ", "[\n", "a", "<", "x@", "5.1.1 ", "account "])
def test_a_reply_takes_steps_in_proportion_to_its_length(name: str, shape: str) -> None:
    """Of thousands of empty lines, too."""
    once, twice = (Steps(getattr(smtp_replies, name), shape * n).search() for n in (40, 80))
    assert twice < 2.5 * once + 50


def test_a_reply_of_any_length_and_any_bytes_is_looked_at_in_bounded_time() -> None:
    """Only the first 4 KiB are; no pattern walks them more than a few times."""
    for seed in (
        b"a ",
        b"too many ",
        b"account ",
        b"limit ",
        b"<",
        b"5.1.1 ",
        b"x@",
        b"\xff",
        b"1.",
    ):
        assert smtp_replies.result(RCPT, 550, seed * 10**5).outcome is not Outcome.ACCEPTED
