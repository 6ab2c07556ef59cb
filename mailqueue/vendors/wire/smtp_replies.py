"""What an SMTP server's refusal means: whose fault it is.

Decides: the outcome of a reply of 4xx or 5xx (the table in ``smtp``), by the step at which it came,
its reply code (RFC 5321), its enhanced status codes (RFC 3463, 5248, 7504, 7505) and its words.

The reply code says whether a refusal is permanent. The enhanced code says whom it is about. If
there is none, or a vague one (5.7.1, 5.0.0), only the words say so. The words below were seen in
replies of Postfix, Exim, qmail, Sendmail, Exchange, Gmail, Yahoo and the relays of vendors, in
English and in German, French, Spanish, Chinese and Japanese. They are looked for in this order, and
the first match counts:

* a limit by the day or month, or without a period: the account's quota is spent
* a limit by the second, minute or hour, a rate, a number of connections: we are too fast
* an account or domain that is suspended, paused, blocked: our account
* 5xx to RCPT about relaying, authentication, the sender, a policy: not the recipient's fault

A quota or an account of a *mailbox* (4.2.2, 5.2.1, "mailbox full") is the recipient's.

Assumes: nothing. Addresses and links are removed first, since a recipient named ``quota@`` or
``spam@`` must not decide what the reply means. Only the first 4 KiB are looked at.

Promises: in doubt no recipient is refused permanently, and another vendor is asked. From MAIL on, a
result that follows from words alone is ``content_suspect``: the words may be about this e-mail's
sender, or quote it.
"""

from __future__ import annotations

import re
from enum import StrEnum

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.vendors.wire import failures

NO_REPLY = -1  # smtplib's code for a line that is not an SMTP reply
CLOSING = 421
_BUSY = 454
_LOGIN_CODES = {530, 534, 535, 538}
_MAILBOX_CODES = {550, 551, 553, 556}
_LIMIT_CODE = 552  # to RCPT it means too many recipients: RFC 5321, 4.5.3.1.10
_LENGTH = 4096


class Step(StrEnum):
    """Where in the dialogue a reply came."""

    CONNECT = "greeting, EHLO, STARTTLS"
    LOGIN = "AUTH"
    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    MESSAGE = "DATA, final dot"


def result(step: Step, code: int, reply: bytes, *, alone: bool = False) -> SendResult:
    """The result of a reply other than yes; ``alone``: the e-mail has one recipient only."""
    text = reply[:_LENGTH].decode("utf-8", "replace")
    if not 400 <= code < 600:
        return _result(Outcome.UNAVAILABLE, code, text)
    words = _plain_words(text)
    by_code = _outcome_by_code(step, code, text, words, alone)
    outcome = _account_outcome(step, text, words) or by_code
    suspect = outcome is not by_code and step not in (Step.CONNECT, Step.LOGIN)
    return _result(outcome, code, text, suspect=suspect)


def reply_code(code: int) -> str:
    """A reply as the ``code`` of a result."""
    return f"smtp-{code}" if 100 <= code < 1000 else failures.BAD_ANSWER


def has_too_many_connections(reply: str) -> bool:
    """Whether the server says that it has too many connections."""
    return bool(_TOO_MANY_CONNECTIONS.search(_plain_words(reply)))


def takes_no_more_recipients(reply: bytes) -> bool:
    """Whether the server takes no more recipients in this transaction (RFC 5321, 4.5.3.1.10).

    It means that only if the server has accepted a recipient before.
    """
    text = reply[:_LENGTH].decode("utf-8", "replace")
    codes = _enhanced_codes(text)
    if codes:
        return all(map(_RECIPIENT_LIMIT.fullmatch, codes))
    return bool(_TOO_MANY_RECIPIENTS.search(_plain_words(text)))


def takes_no_more_emails(reply: bytes | str) -> bool:
    """Whether the server takes no more e-mails over this connection; it may over another."""
    text = reply if isinstance(reply, str) else reply[:_LENGTH].decode("utf-8", "replace")
    return bool(_PER_CONNECTION.search(_plain_words(text)))


def _result(outcome: Outcome, code: int, text: str, *, suspect: bool = False) -> SendResult:
    return SendResult(outcome=outcome, code=reply_code(code), detail=text, content_suspect=suspect)


def _outcome_by_code(step: Step, code: int, text: str, words: str, alone: bool) -> Outcome:
    if code in _LOGIN_CODES:
        return Outcome.MISCONFIGURED
    if code == CLOSING or (code == _BUSY and step is not Step.CONNECT):
        return Outcome.THROTTLED
    if step is Step.CONNECT:
        return Outcome.UNAVAILABLE
    if step is Step.LOGIN:
        return Outcome.UNAVAILABLE if code < 500 else Outcome.MISCONFIGURED
    if code < 500:
        return Outcome.DEFERRED
    if step is Step.RECIPIENT and code == _LIMIT_CODE and not _SIZE.search(words):
        return Outcome.DEFERRED
    if _is_recipients_fault(step, code, text, words, alone):
        return Outcome.REJECTED
    return Outcome.UNSUITABLE


def _is_recipients_fault(step: Step, code: int, text: str, words: str, alone: bool) -> bool:
    """Whether a 5xx is surely about the recipient, so that no other vendor could help."""
    codes = _enhanced_codes(text)
    if codes:
        about_one = step is Step.RECIPIENT or (step is Step.MESSAGE and alone)
        of_recipient = all(map(_RECIPIENT.fullmatch, codes))
        return about_one and of_recipient and not _OTHER_CAUSE.search(words)
    if step is not Step.RECIPIENT or code not in _MAILBOX_CODES:
        return False
    return not (_OTHER_CAUSE.search(words) or _MAYBE_OTHER_CAUSE.search(words))


def _account_outcome(step: Step, text: str, words: str) -> Outcome | None:
    """MISCONFIGURED or THROTTLED if the words are about our account or our pace."""
    if _is_about_a_mailbox(step, text, words):
        return None
    if _PERIOD.search(words) and _COUNTED.search(words):
        return Outcome.MISCONFIGURED
    if _PACE.search(words) or _TOO_MANY_CONNECTIONS.search(words):
        return Outcome.THROTTLED
    if _QUOTA.search(words) and not _ONE_MESSAGE.search(words):
        return Outcome.MISCONFIGURED
    return Outcome.MISCONFIGURED if _SUSPENDED.search(words) else None


def _is_about_a_mailbox(step: Step, text: str, words: str) -> bool:
    """Whether the words are about the recipient's quota, account or pace, not about ours."""
    if step in (Step.CONNECT, Step.LOGIN, Step.SENDER) or _OUR_SIDE.search(words):
        return False
    if any(_MAILBOX_STATUS.fullmatch(code) for code in _enhanced_codes(text)):
        return True
    return bool(_MAILBOX.search(words))


def _enhanced_codes(text: str) -> list[str]:
    """The enhanced codes that begin a line, else all of them."""
    return _ENHANCED_FIRST.findall(text) or _ENHANCED.findall(text)


def _plain_words(text: str) -> str:
    """The text without addresses, links and enhanced codes, in lower case on one line."""
    return " ".join(_NO_WORDS.sub(" ", text).lower().split())


def _any_of(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives))


_NUMBER = r"[245]\.\d{1,3}\.\d{1,3}(?!\.?\d)"
_ENHANCED_FIRST = re.compile(rf"^[ \t\[(#]*({_NUMBER})", re.MULTILINE)
_ENHANCED = re.compile(rf"(?<![\w.])({_NUMBER})")
_NO_WORDS = re.compile(rf"<[^<>\s]*>|(?<!\S)\S*(?:@|://|www\.)\S*|(?<![\w.]){_NUMBER}")
_RECIPIENT = re.compile(r"5\.1\.(?:[1236]|10)|5\.2\.\d+")
_RECIPIENT_LIMIT = re.compile(r"[45]\.5\.3")
_MAILBOX_STATUS = re.compile(r"[45]\.(?:1\.(?:[1236]|10)|2\.\d+)")

# Words about our own side, which outweigh those about a mailbox.
_OUR_SIDE = _any_of(
    r"\b(?:sending|submission|relay\w*|outbound|outgoing|sender|smtp|daily|hourly|monthly)\b",
    r"\byou(?:'ve| have| are over| exceed)",
    r"\byour (?:[\w-]+ )?(?:account|quota|plan|limits?|subscription|credits?|domain|ip)\b",
    r"\bsend limit",
)
# The recipient's mailbox, quota or account.
_MAILBOX = _any_of(
    r"mail ?box|inbox|storage|\bdisk\b|\bfull\b|over ?quota|receiving mail",
    r"tried to reach|trying to (?:reach|contact)",
    r"postfach|empf[äa]e?nger|bo[iî]te|destinatai?r|buz[oó]n|casella|邮箱|收件|メールボックス|宛先|受信",
    r"recipient(?:'s)? (?:is|has|account|quota|over)",
    r"(?:account|user)(?: (?:account|has been|is|was)){0,3} (?:disabled|inactive|locked|closed)",
)
_TOO_MANY_RECIPIENTS = _any_of(
    r"too many (?:[\w-]+ ){0,2}(?:recipients|rcpts?|addresses)\b",
    r"(?:max\w*|limit) (?:\w+ ){0,3}recipients\b|recipients? (?:\w+ ){0,3}limit",
)
# The size of the message; ``_ONE_MESSAGE`` is any limit of a single one, which is no quota.
_SIZE = _any_of(
    r"\bsize|too (?:large|big|long)|\blength|\bbytes?\b|\b[kmg]i?b\b",
    r"größe|groesse|zu groß|\btaille|tamaño|dimension|大小|过大|サイズ",
)
_ONE_MESSAGE = _any_of(_SIZE.pattern, r"\bhops?\b|\blines?\b|\brecipients\b|recipient limit")
# A period that is too long to wait for, and what is counted in it: the quota is spent.
_PERIOD = _any_of(
    r"\b(?:daily|monthly|weekly|today|24[ -]?h(?:ou)?rs?|trial|free (?:plan|tier|accounts?))\b",
    r"(?:\bper|\ba|\beach|\bevery|\bthis|/) ?-?(?:day|week|month)\b|\byour (?:\w+ )?plan\b",
)
_COUNTED = _any_of(r"limit|quota|\bmax|exceed|messages|e-?mails|\bsent\b|reached|credits|allowed")
# We are too fast: it passes within minutes.
_PACE = _any_of(
    r"too (?:many|much) (?:[\w-]+ ){0,3}(?:requests?|messages?|e-?mails?|mails?|deliver\w+)\b",
    r"too (?:many|much) (?:[\w-]+ ){0,3}(?:submissions?|log ?-?ins?\b|auth\w*|recipients from)",
    r"too (?:fast|quick\w*|frequent\w*|often|busy)|slow down|throttl|\bpeak\b|\bfrequency\b",
    r"zu (?:viele|häufige?) (?:e-?)?(?:mails?|nachrichten|anfragen)|zu (?:schnell|häufig)",
    r"trop de (?:mails|messages|courriels|requêtes)|trop (?:vite|rapide)",
    r"demasiados (?:mensajes|correos)",
    r"频率|频繁|過於頻|頻度|頻繁|短時間|送信速度",
    r"\brates?\b|rate ?-?limit|over ?limit",
    r"hourly|(?:\bper|\ban|\beach|\bevery|\bthis|\bone|\blast)[ -](?:second|minute|hour)\b",
    r"/ ?\d*(?:s|sec|min|h|hr|hour)\b",
)
_TOO_MANY_CONNECTIONS = _any_of(
    r"too (?:many|much) (?:[\w-]+ ){0,4}(?:connect\w*|sessions?|clients?)\b",
    r"\b(?:concurrent|simultaneous|parallel)\b",
    r"(?:connections?|sessions?|threads?) (?:\w+ ){0,2}(?:limit|exceed)",
    r"(?:limit|max\w*|number) (?:\w+ ){0,2}(?:connections?|sessions?)",
    r"zu viele (?:\w+ )?verbindungen|trop de connexions|demasiadas conexiones",
    r"连接数|连接过多|接続数",
)
# A limit of this connection: the e-mail may go over another one.
_PER_CONNECTION = _any_of(
    r"\b(?:an?|each|one|per|same|single|the|this|your) (?:smtp |tcp )?(?:connection|session)\b",
)
# The account's quota or its money is spent.
_QUOTA = _any_of(
    r"quota|kontingent|\bcuota\b|\bcredits?\b|(?:tages|versand|sende|monats)limit",
    r"\bl[ií]mite?s?\b (?:\S+ ){0,4}(?:überschritten|erreicht|atteint|dépassé|alcanzad|excedid)",
    r"限额|配额|额度|上限|余额不足|欠费",
    r"payment|unpaid|overdue|billing|insufficient (?:funds|balance)",
    r"\b(?:send|sending|messages?|e-?mails?|mail|relay|account|user|usage|smtp) limits?\b",
    r"\blimits? (?:(?:has|have|is|was|been) )*(?:exceed|reach|hit)",
    r"(?:exceed|reach|\bover|\bhit)\w* (?:[\w'-]+ ){0,4}(?:limits?|threshold|allowance)\b",
)
_SENDER = r"(?:account|subscription|service|domain|user|customer|tenant|sender|sending|api key)"
_SUSPENDED = _any_of(
    rf"\b{_SENDER}\b[^.;]{{0,40}}\b(?:suspended|suspension|paused|terminated|deactivated|frozen)\b",
    rf"\b(?:suspended|paused|terminated|deactivated|frozen) {_SENDER}\b",
    r"\b(?:account|subscription|sending|api key)\b[^.;]{0,40}\b(?:disabled|blocked|locked)\b",
    r"\b(?:account|subscription|api key)\b[^.;]{0,40}\b(?:banned|restricted|expired|closed)\b",
    r"\baccount\b[^.;]{0,30}\b(?:inactive|on hold|under review|not (?:yet )?(?:activ|approv)\w+)",
    r"\b(?:disabled|blocked|locked|expired|inactive) (?:account|subscription)\b",
    r"\b(?:trial|plan|licen[cs]e)\b[^.;]{0,20}\b(?:expired|ended)\b",
    r"\boutgoing\b[^;]{0,60}\b(?:blocked|suspended|disabled)\b",
    r"(?:konto|versand)\b[^.;]{0,30}\b(?:gesperrt|deaktiviert|ausgesetzt)",
    r"\b(?:compte|cuenta|conta)\b[^.;]{0,30}\b(?:suspen[ds]|désactiv|bloqu|deshabilit|desativ)",
    r"(?:[账帐][号户]|アカウント).{0,10}(?:[禁封锁停]|冻结|凍結|無効|ロック)",
)
# Another cause than the recipient, even beside an enhanced code that names the recipient.
_OTHER_CAUSE = _any_of(
    r"relay\w* (?:access |is |mail )?(?:denied|not|prohibit|refus|disabled)",
    r"(?:to|not|no|open) relay|\bsend ?-?as(?:\b|denied)",
    r"sender (?:address )?(?:reject|denied|refus|not|verif|unknown)|sender verif",
    r"spam|virus|malware|phish|(?:black|block|deny) ?-?list|dnsbl|\brbl\b|reputation",
    r"\bspf\b|\bdkim\b|\bdmarc\b|your message exceed",
)
# Without an enhanced code, these words leave the cause open.
_MAYBE_OTHER_CAUSE = _any_of(
    _SIZE.pattern,
    r"relay|relais|rcpthosts|gateway|auth|autent|log ?-?in\b|password|credential|kennwort",
    r"sender|mail from|from (?:address|header|domain)|return ?-?path|envelope",
    r"absender|exp[ée]diteur|remitente|remetente|mittente|afzender|nadawc|отправител|发件|寄件|送信者",
    r"polic|polit|richtlini|beleid|политик|策略|ポリシー",
    r"block|blokk|bloqu|bloccat|gesperrt|заблок|спам|垃圾|(?<!not )listed",
    r"abuse|complain|unsolicited",
    r"\bbulk\b|\bjunk\b|content|attachment|\btls\b|\bssl\b|encrypt|certificate",
    r"\bservice\b|transaction|aborted|command|protocol|maintenance|\bbusy\b|time(?:d )? ?-?out",
    r"(?:system|internal|server|proxy|upstream|configuration|temporary) (?:error|failure|problem)",
    r"\bserver (?:is|not|down)\b|database|\bldap\b|backend|lookup|call-?out",
    r"(?:cannot|can't|could not|unable to) (?:verify|process|check|connect|accept)",
    r"(?<!name )not allowed|restrict|suspicious|security|dynamic|country|go away",
    r"\bisp\b|in my list|starttls|\b(?:e?smtp|pop3?|imap)\b|^(?:rejected|refused|failed|error)\W*$",
    r"\bhelo\b|\behlo\b|host ?-?name|client host|reverse|\bptr\b|\brdns\b|\bdns\b",
    r"denied|prohibit|forbidden|banned|permission|not (?:permitted|authori[sz]ed|welcome)",
    r"abgelehnt|weiterleit|nicht (?:gestattet|erlaubt|zugelassen|berechtigt)|refusé|rejeté|indésir",
    r"rechazad|不允许|转发|中継|验证|认证|認証|授权|許可|迷惑",
    r"verweigert|denegad|negad|negat[oa]|accès refus|odmow|отказ|拒",
    r"gr[ea]y ?-?list|temporar|try (?:again|later)|\blater\b|too many|\bhops?\b|\bloop",
    r"your (?:ip|host|server|network|domain|account|client|message|e-?mail)\b",
    r"\byou(?:'re| are) not\b",
    r"attack|(?:white|allow) ?-?list|limited|verification|not our\b|\bsession\b|zu viele|trop de",
    r"(?:message|e-?mail|mail|delivery|connection) (?:\w+ ){0,2}(?:refused|rejected|not accepted)",
    r"频|頻|超过|超過|限|禁|封",
    r"\b[a-z]{2}:[a-z]{3}\b",  # NetEase sends only such a code
)
