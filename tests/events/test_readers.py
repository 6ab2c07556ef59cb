"""What holds of the reader of every vendor's events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailqueue.config import Config
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import ConfigError
from mailqueue.vendors.events.source import (
    EventSource,
    EventType,
    Malformed,
    NotAuthentic,
    VendorEvent,
)
from tests.events.case import ANN, EMAIL_ID, EventsCase, Sample, changed
from tests.events.cases import CASES

ALL = [pytest.param(case, id=name) for name, case in CASES.items()]
SAMPLES = [
    pytest.param(case, sample, id=f"{name}-{number}-{sample.type}")
    for name, case in CASES.items()
    for number, sample in enumerate(case.samples)
]
FORGERIES = [
    pytest.param(case, forge, id=f"{name}-{forgery}")
    for name, case in CASES.items()
    for forgery, forge in case.forgeries.items()
]
VECTORS = [
    pytest.param(case, own, request, id=f"{name}-{number}")
    for name, case in CASES.items()
    for number, (own, request) in enumerate(case.vectors)
]
ODD = ("null", "1", '"text"', "[]", "{}", "[1]", "[[]]", "[null]", "[{}]")
ODD_BODIES: dict[str, Any] = {
    **{text: json.loads(text) for text in ODD},
    "NaN": float("nan"),
    "a large number": 10**400,
}


def read(case: EventsCase, *events: Any) -> list[VendorEvent]:
    source, request = case.source(), case.authentic(*events)
    source.verify(request)
    return list(source.read(request))


def test_each_type_of_vendor_with_events_has_a_case() -> None:
    assert set(CASES) == {name for name, row in VENDOR_TYPES.items() if row.events is not None}


@pytest.mark.parametrize("case,sample", SAMPLES)
def test_an_event_is_read_as_what_the_vendor_means_by_it(case: EventsCase, sample: Sample) -> None:
    (event,) = read(case, sample.event)
    expected = {"suppress": None, "by_vendor_list": False, "lift": False, "recipient": ANN}
    expected |= {"type": sample.type, **sample.more}
    assert {name: getattr(event, name) for name in expected} == expected


@pytest.mark.parametrize("case", ALL)
def test_an_event_has_the_same_key_in_each_repeat_and_no_other_event_has_it(
    case: EventsCase,
) -> None:
    first, repeat = ([read(case, s.event)[0].key for s in case.samples] for _ in range(2))
    assert first == repeat
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("case", ALL)
def test_events_name_our_id_or_the_vendors_and_say_when(case: EventsCase) -> None:
    events = [event for sample in case.samples for event in read(case, sample.event)]
    assert any(event.email_id == EMAIL_ID or event.message_id for event in events)
    assert all(event.at is not None and event.at.tzinfo is not None for event in events)


# Authenticity ------------------------------------------------------------------------------------


def refuses(source: EventSource, request: Any) -> bool:
    try:
        source.verify(request)
    except NotAuthentic:
        return True
    return False


@pytest.mark.parametrize("case,forge", FORGERIES)
def test_a_forged_request_is_refused(case: EventsCase, forge: Any) -> None:
    request = case.authentic(case.samples[0].event)
    case.source().verify(request)
    assert refuses(case.source(), forge(request))


@pytest.mark.parametrize("case", ALL)
def test_another_vendors_secret_is_refused(case: EventsCase) -> None:
    assert refuses(case.source(case.other), case.authentic(case.samples[0].event))


@pytest.mark.parametrize("case", ALL)
def test_an_old_and_a_new_secret_are_both_good(case: EventsCase) -> None:
    case.source(case.both).verify(case.authentic(case.samples[0].event))


@pytest.mark.parametrize("case,own,request_", VECTORS)
def test_a_published_test_vector_is_authentic(case: EventsCase, own: Any, request_: Any) -> None:
    case.source(own).verify(request_)


@pytest.mark.parametrize("case", ALL)
def test_an_empty_secret_is_refused_at_the_start(case: EventsCase) -> None:
    for name in ("secret", "basic_auth"):
        with pytest.raises(ConfigError):
            case.source({**case.settings, name: ""})


@pytest.mark.parametrize("case", ALL)
def test_events_without_a_secret_or_with_an_unknown_key_are_a_bad_configuration(
    case: EventsCase,
) -> None:
    for own in ({}, {**case.settings, "sceret": "x"}, {"secret": 7}, {"secrets": [7]}):
        with pytest.raises(ConfigError, match="events"):
            Config.from_mapping({"vendors": [{**case.config, "events": own}]})


@pytest.mark.parametrize("case", ALL)
def test_no_repr_shows_a_secret_or_an_address(case: EventsCase) -> None:
    request = case.authentic(case.samples[0].event)
    shown = f"{request!r} {case.source().read(request)!r} {case.source()!r}"
    assert ANN not in shown
    assert "secret" not in shown


# Odd requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_BODIES)
@pytest.mark.parametrize("case", ALL)
def test_an_authentic_request_with_odd_json_is_malformed_or_without_effect(
    case: EventsCase, name: str
) -> None:
    _read_odd(case, json.dumps(ODD_BODIES[name]).encode())


@pytest.mark.parametrize("case", ALL)
def test_a_body_that_is_no_json_or_deep_or_large_raises_nothing_else(case: EventsCase) -> None:
    for body in (b"", b"\xff\xfe", b"{", b"[" * 100_000, b'"' + b"x" * 10_000_000 + b'"'):
        _read_odd(case, body)


def _read_odd(case: EventsCase, body: bytes) -> None:
    source, request = case.source(), case.request(body)
    try:
        source.verify(request)
        events = source.read(request)
    except (NotAuthentic, Malformed):
        return
    assert {event.type for event in events} <= {EventType.UNKNOWN}


@pytest.mark.parametrize("case", [case for case in ALL if CASES[str(case.id)].batch])
def test_a_bad_event_does_not_harm_the_others_of_its_batch(case: EventsCase) -> None:
    good = case.samples[0]
    odd: list[Any] = [None, 7, "text", [], {}, {"event": {}}, {"email": [ANN]}]
    for bad in odd:
        events = read(case, bad, good.event)
        assert [event for event in events if event.type is good.type]


def _values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=3,
    )


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in an event with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("case", ALL)
@given(data=st.data())
def test_any_value_in_any_place_of_an_event_is_read_or_malformed(
    case: EventsCase, data: st.DataObject
) -> None:
    sample = data.draw(st.sampled_from(case.samples))
    event = json.loads(json.dumps(sample.event))
    container, key = data.draw(st.sampled_from(list(_places(event))))
    container[key] = data.draw(_values())
    source, request = case.source(), case.authentic(event)
    try:
        source.verify(request)
        events = source.read(request)
    except (Malformed, NotAuthentic):
        return
    for each in events:
        assert isinstance(each.key, str)
        assert isinstance(each.recipient, str | None)
        assert isinstance(each.email_id, str | None)
        assert isinstance(each.message_id, str | None)
        assert isinstance(each.code, str)
        assert isinstance(each.detail, str)


@pytest.mark.parametrize("case", ALL)
def test_a_head_request_is_answered_and_a_post_is_no_handshake(case: EventsCase) -> None:
    request = case.authentic(case.samples[0].event)
    answer = case.source().greet(changed(request, method="HEAD", body=b""))
    assert answer is not None
    assert answer.status == 200
    assert case.source().greet(request) is None


@pytest.mark.parametrize("case", ALL)
def test_the_answer_while_nothing_can_be_stored_makes_the_vendor_repeat(case: EventsCase) -> None:
    assert case.source().away_status == case.away_status
