"""Messages that nobody builds, but strangers do."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message

from hypothesis import given, settings
from hypothesis import strategies as st

from mailqueue.errors import InvalidEmail
from mailqueue.message import Email
from mailqueue.message.mime import mime
from tests.unit.test_stdlib_message import HEAD, HTML, PDF, PLAIN, POLICIES, leaf, tree

parts = st.recursive(
    st.builds(
        leaf,
        st.sampled_from([PLAIN, HTML, "text/calendar", PDF, "message/rfc822", "odd", "a/b; c=d"]),
        st.text(st.characters(codec="ascii"), max_size=20),
    ),
    lambda inside: st.builds(
        tree,
        st.sampled_from(["mixed", "alternative", "related", "digest", "x"]),
        inside,
        inside,
    ),
    max_leaves=8,
)


@given(parts, st.binary(max_size=60), st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_any_message_is_taken_whole_or_refused(made: Message, noise: bytes, at: int) -> None:
    """And what was taken means the same when it was written and is read again."""
    octets = HEAD + made.as_bytes()
    at %= len(octets)
    for each in (octets, octets[:at] + noise + octets[at:]):
        for how in POLICIES:
            try:
                whole = Email.of(message_from_bytes(each, **how))
            except InvalidEmail:
                continue
            again = Email.of(message_from_bytes(mime(whole, message_id="<1@x.org>")))
            assert len(again.attachments) == len(whole.attachments)
            assert len(again.alternatives) == len(whole.alternatives)
