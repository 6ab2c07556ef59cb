"""What an SMTP server's refusal means: whose fault it is.

Decides: the outcome of a reply of 4xx or 5xx (the table in ``smtp``), by the step at which it came,
its reply code (RFC 5321), its enhanced status codes (RFC 3463, 5248, 7504, 7505) and its words.

The reply code says whether a refusal is for good. A relay says of whom it speaks in the enhanced
code, and where it has none or a vague one (5.7.1, 5.0.0) only in words, which are as they were seen
in the replies of Postfix, Exim, qmail, Sendmail, Exchange, Gmail, Yahoo and the relays of vendors.
They are looked for in this order, the first found counts:

* a limit by the day or month, or of no period: the account's quota is spent
* a limit by the second, minute or hour, a rate, a number of connections: we are too fast
* an account or domain that is suspended, paused, blocked: the account
* 5xx of a recipient: relaying, authentication, the sender, a policy: not the recipient's fault

Of other languages the words are there that German, French, Spanish, Chinese and Japanese servers
use for the same.

A quota or an account that is a *mailbox's* (4.2.2, 5.2.1, "mailbox full") is the recipient's.

Assumes: nothing. Addresses and links are taken out first: whoever is called ``quota@`` or ``spam@``
must not decide what the reply means. Only the first 4 KiB are looked at.

Promises: in doubt no recipient is refused for good: then another vendor is asked. What only words
say from MAIL on is ``content_suspect``: they may be about this e-mail's sender, or quote it.
"""

from __future__ import annotations

import re
from enum import StrEnum

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.vendors.wire import failures

NO_REPLY = -1  # smtplib's word for a line that is not an SMTP reply
CLOSING = 421
_BUSY = 454
_LOGIN_WANTED = {530, 534, 535, 538}
_NO_MAILBOX = {550, 551, 553, 556}
_TOO_MANY_RECIPIENTS = 552  # RFC 5321, 4.5.3.1.10
_LENGTH = 4096


class Step(StrEnum):
    """Where in the dialogue a reply came."""

    CONNECT = "greeting, EHLO, STARTTLS"
    LOGIN = "AUTH"
    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    MESSAGE = "DATA, final dot"


def result(step: Step, code: int, reply: bytes, *, alone: bool = False) -> SendResult:
    """What a reply that is no yes comes to; ``alone``: there is one recipient only."""
    text = reply[:_LENGTH].decode("utf-8", "replace")
    if not 400 <= code < 600:
        return _result(Outcome.UNAVAILABLE, code, text)
    said = _said(text)
    by_code = _by_code(step, code, text, said, alone)
    outcome = _of_the_account(step, text, said) or by_code
    suspect = outcome is not by_code and step not in (Step.CONNECT, Step.LOGIN)
    return _result(outcome, code, text, suspect=suspect)


def reply_code(code: int) -> str:
    """A reply as the ``code`` of a result."""
    return f"smtp-{code}" if 100 <= code < 1000 else failures.BAD_ANSWER


def crowded(reply: bytes | str) -> bool:
    """Whether the server says that it has too many connections."""
    return bool(_CROWDED.search(_words_of(reply)))


def enough(reply: bytes) -> bool:
    """Whether the server takes no more recipients in this transaction (RFC 5321, 4.5.3.1.10).

    Of a server that took none before, that is not so.
    """
    text = reply[:_LENGTH].decode("utf-8", "replace")
    codes = _enhanced(text)
    if codes:
        return all(map(_ENOUGH.fullmatch, codes))
    return bool(_TOO_MANY.search(_said(text)))


def used_up(reply: bytes | str) -> bool:
    """Whether the server takes no more e-mails over this connection, while it may over another."""
    return bool(_PER_CONNECTION.search(_words_of(reply)))


def _words_of(reply: bytes | str) -> str:
    return _said(reply if isinstance(reply, str) else reply[:_LENGTH].decode("utf-8", "replace"))


def _result(outcome: Outcome, code: int, text: str, *, suspect: bool = False) -> SendResult:
    return SendResult(outcome=outcome, code=reply_code(code), detail=text, content_suspect=suspect)


def _by_code(step: Step, code: int, text: str, said: str, alone: bool) -> Outcome:
    if code in _LOGIN_WANTED:
        return Outcome.MISCONFIGURED
    if code == CLOSING or (code == _BUSY and step is not Step.CONNECT):
        return Outcome.THROTTLED
    if step is Step.CONNECT:
        return Outcome.UNAVAILABLE
    if step is Step.LOGIN:
        return Outcome.UNAVAILABLE if code < 500 else Outcome.MISCONFIGURED
    if code < 500:
        return Outcome.DEFERRED
    if step is Step.RECIPIENT and code == _TOO_MANY_RECIPIENTS and not _SIZE.search(said):
        return Outcome.DEFERRED
    if _of_the_recipient(step, code, text, said, alone):
        return Outcome.REJECTED
    return Outcome.UNSUITABLE


def _of_the_recipient(step: Step, code: int, text: str, said: str, alone: bool) -> bool:
    """Whether a 5xx surely speaks of the recipient, so that no other vendor could help."""
    codes = _enhanced(text)
    if codes:
        named = step is Step.RECIPIENT or (step is Step.MESSAGE and alone)
        return named and all(map(_RECIPIENT.fullmatch, codes)) and not _PLAINLY_ELSE.search(said)
    if step is not Step.RECIPIENT or code not in _NO_MAILBOX:
        return False
    return not (_PLAINLY_ELSE.search(said) or _PERHAPS_ELSE.search(said))


def _of_the_account(step: Step, text: str, said: str) -> Outcome | None:
    """MISCONFIGURED or THROTTLED where the words are of our account or our pace."""
    if _is_a_mailboxes(step, text, said):
        return None
    if _PERIOD.search(said) and _COUNTED.search(said):
        return Outcome.MISCONFIGURED
    if _PACE.search(said) or _CROWDED.search(said):
        return Outcome.THROTTLED
    if _QUOTA.search(said) and not _ONE_MESSAGES.search(said):
        return Outcome.MISCONFIGURED
    return Outcome.MISCONFIGURED if _SUSPENDED.search(said) else None


def _is_a_mailboxes(step: Step, text: str, said: str) -> bool:
    """Whether the words are of the recipient's quota, account or pace, not of ours."""
    if step in (Step.CONNECT, Step.LOGIN, Step.SENDER) or _OURS.search(said):
        return False
    if any(_MAILBOX_STATUS.fullmatch(code) for code in _enhanced(text)):
        return True
    return bool(_MAILBOX.search(said))


def _enhanced(text: str) -> list[str]:
    """The enhanced codes: those that begin a line, else any."""
    return _ENHANCED_FIRST.findall(text) or _ENHANCED.findall(text)


def _said(text: str) -> str:
    """The words alone: no addresses, links or enhanced codes, in lower case on one line."""
    return " ".join(_NO_WORDS.sub(" ", text).lower().split())


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives))


_NUMBER = r"[245]\.\d{1,3}\.\d{1,3}(?!\.?\d)"
_ENHANCED_FIRST = re.compile(rf"^[ \t\[(#]*({_NUMBER})", re.MULTILINE)
_ENHANCED = re.compile(rf"(?<![\w.])({_NUMBER})")
_NO_WORDS = re.compile(rf"<[^<>\s]*>|(?<!\S)\S*(?:@|://|www\.)\S*|(?<![\w.]){_NUMBER}")
_RECIPIENT = re.compile(r"5\.1\.(?:[1236]|10)|5\.2\.\d+")
_ENOUGH = re.compile(r"[45]\.5\.3")
_MAILBOX_STATUS = re.compile(r"[45]\.(?:1\.(?:[1236]|10)|2\.\d+)")

# Words of our own side, which outweigh those of a mailbox.
_OURS = _words(
    r"\b(?:sending|submission|relay\w*|outbound|outgoing|sender|smtp|daily|hourly|monthly)\b",
    r"\byou(?:'ve| have| are over| exceed)",
    r"\byour (?:[\w-]+ )?(?:account|quota|plan|limits?|subscription|credits?|domain|ip)\b",
    r"\bsend limit",
)
_MAILBOX = _words(
    r"mail ?box|inbox|storage|\bdisk\b|\bfull\b|over ?quota|receiving mail",
    r"tried to reach|trying to (?:reach|contact)",
    r"postfach|empf[äa]e?nger|bo[iî]te|destinatai?r|buz[oó]n|casella|邮箱|收件|メールボックス|宛先|受信",
    r"recipient(?:'s)? (?:is|has|account|quota|over)",
    r"(?:account|user)(?: (?:account|has been|is|was)){0,3} (?:disabled|inactive|locked|closed)",
)
_TOO_MANY = _words(
    r"too many (?:[\w-]+ ){0,2}(?:recipients|rcpts?|addresses)\b",
    r"(?:max\w*|limit) (?:\w+ ){0,3}recipients\b|recipients? (?:\w+ ){0,3}limit",
)
_SIZE = _words(
    r"\bsize|too (?:large|big|long)|\blength|\bbytes?\b|\b[kmg]i?b\b",
    r"größe|groesse|zu groß|\btaille|tamaño|dimension|大小|过大|サイズ",
)
_ONE_MESSAGES = _words(_SIZE.pattern, r"\bhops?\b|\blines?\b|\brecipients\b|recipient limit")
_PERIOD = _words(
    r"\b(?:daily|monthly|weekly|today|24[ -]?h(?:ou)?rs?|trial|free (?:plan|tier|accounts?))\b",
    r"(?:\bper|\ba|\beach|\bevery|\bthis|/) ?-?(?:day|week|month)\b|\byour (?:\w+ )?plan\b",
)
_COUNTED = _words(r"limit|quota|\bmax|exceed|messages|e-?mails|\bsent\b|reached|credits|allowed")
_PACE = _words(
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
_CROWDED = _words(
    r"too (?:many|much) (?:[\w-]+ ){0,4}(?:connect\w*|sessions?|clients?)\b",
    r"\b(?:concurrent|simultaneous|parallel)\b",
    r"(?:connections?|sessions?|threads?) (?:\w+ ){0,2}(?:limit|exceed)",
    r"(?:limit|max\w*|number) (?:\w+ ){0,2}(?:connections?|sessions?)",
    r"zu viele (?:\w+ )?verbindungen|trop de connexions|demasiadas conexiones",
    r"连接数|连接过多|接続数",
)
_PER_CONNECTION = _words(
    r"\b(?:an?|each|one|per|same|single|the|this|your) (?:smtp |tcp )?(?:connection|session)\b",
)
_QUOTA = _words(
    r"quota|kontingent|\bcuota\b|\bcredits?\b|(?:tages|versand|sende|monats)limit",
    r"\bl[ií]mite?s?\b (?:\S+ ){0,4}(?:überschritten|erreicht|atteint|dépassé|alcanzad|excedid)",
    r"限额|配额|额度|上限|余额不足|欠费",
    r"payment|unpaid|overdue|billing|insufficient (?:funds|balance)",
    r"\b(?:send|sending|messages?|e-?mails?|mail|relay|account|user|usage|smtp) limits?\b",
    r"\blimits? (?:(?:has|have|is|was|been) )*(?:exceed|reach|hit)",
    r"(?:exceed|reach|\bover|\bhit)\w* (?:[\w'-]+ ){0,4}(?:limits?|threshold|allowance)\b",
)
_WHO = r"(?:account|subscription|service|domain|user|customer|tenant|sender|sending|api key)"
_SUSPENDED = _words(
    rf"\b{_WHO}\b[^.;]{{0,40}}\b(?:suspended|suspension|paused|terminated|deactivated|frozen)\b",
    rf"\b(?:suspended|paused|terminated|deactivated|frozen) {_WHO}\b",
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
# Not of the recipient, even beside an enhanced code that is.
_PLAINLY_ELSE = _words(
    r"relay\w* (?:access |is |mail )?(?:denied|not|prohibit|refus|disabled)",
    r"(?:to|not|no|open) relay|\bsend ?-?as(?:\b|denied)",
    r"sender (?:address )?(?:reject|denied|refus|not|verif|unknown)|sender verif",
    r"spam|virus|malware|phish|(?:black|block|deny) ?-?list|dnsbl|\brbl\b|reputation",
    r"\bspf\b|\bdkim\b|\bdmarc\b|your message exceed",
)
# Without a code such words leave it open; some that are not English are among them.
_PERHAPS_ELSE = _words(
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
    r"\b[a-z]{2}:[a-z]{3}\b",  # NetEase tells no more than such a code
)
