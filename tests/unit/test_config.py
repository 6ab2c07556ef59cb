"""The configuration: what is accepted, what is refused in which words, what is never shown."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import pydoc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import mailqueue
from mailqueue.config import (
    Beanstalkd,
    Config,
    Delivery,
    Http,
    Memory,
    MongoDB,
    Rate,
    Retry,
    VendorConfig,
    dicts,
    is_production,
)
from mailqueue.config.config import READABLE_BY_ALL, SECTIONS
from mailqueue.config.keys import Key, Problems
from mailqueue.config.queue import QUEUE_TYPES
from mailqueue.config.rates import BUDGETS, PACES
from mailqueue.config.section import Section, keys_of
from mailqueue.config.services import Dashboard
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import ConfigError
from tests.for_each import for_each
from tests.logged import event

SAMPLE = Path(__file__).parents[2] / "sample_config.json"
SENDGRID = {"name": "a", "type": "sendgrid", "api_key": "SG.key"}
SMTP = {"name": "a", "type": "smtp", "host": "mail.example.com"}
MAILGUN = {"name": "a", "type": "mailgun", "api_key": "key", "domain": "mg.example.com"}


def problems(mapping: Mapping[str, Any], **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(mapping, **{"environ": {}} | options)
    return list(caught.value.problems)


def vendor(entry: Mapping[str, Any], **options: Any) -> VendorConfig:
    return Config.from_mapping({"vendors": [entry]}, **{"environ": {}} | options).vendors[0]


def vendor_problems(entry: Mapping[str, Any], **options: Any) -> list[str]:
    return problems({"vendors": [entry]}, **options)


# Making one


def test_everything_but_the_vendors_has_a_default() -> None:
    config = Config()
    assert config.vendors == ()
    assert config == Config.from_mapping({}, environ={})
    assert config.delivery == Delivery(on_unknown="resend", deadline=60)
    assert config.limits.max_size == 15 * 2**20


def test_keyword_arguments_take_mappings_and_objects() -> None:
    config = Config(
        mongodb={"database": "shop"},
        beanstalkd=Beanstalkd(tube="shop"),
        vendors=[
            {"name": "a", "type": "sendgrid", "api_key": "SG.key"},
            VendorConfig("b", "smtp", keys={"host": "localhost"}),
        ],
    )
    assert config.mongodb == MongoDB(database="shop")
    assert config.beanstalkd.tube == "shop"
    assert [vendor.name for vendor in config.vendors] == ["a", "b"]


def test_keyword_arguments_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.1")
    config = Config(vendors=[{"name": "a", "type": "sendgrid", "api_key": "${SENDGRID_API_KEY}"}])
    assert config.vendors[0].keys["api_key"] == "SG.1"


@for_each("replace", [Config.replace, dataclasses.replace])
def test_a_replaced_section_is_checked_again(replace: Callable[..., Config]) -> None:
    vendors = [VendorConfig("a", "sendgrid", keys={"api_key": "SG.key"})]
    config = Config(vendors=vendors)
    assert replace(config, retry={"base": 1}) == Config(vendors=vendors, retry=Retry(base=1))
    with pytest.raises(ConfigError, match=r"^delivery\.lease: "):
        replace(config, delivery={"lease": 5})


def test_a_resolved_secret_is_not_resolved_again() -> None:
    config = Config.from_mapping(
        {"vendors": [SENDGRID | {"api_key": "${K}"}]}, environ={"K": "${HOME}"}
    )
    assert config.replace(retry={"base": 1}).vendors[0].keys["api_key"] == "${HOME}"


def test_a_mapping_in_the_place_of_a_file_is_told_where_it_belongs() -> None:
    with pytest.raises(TypeError, match=r"Config\.from_mapping"):
        Config.load({"mongodb": {}})  # type: ignore[arg-type]  # as without a type checker


def test_only_the_http_service_needs_the_secrets_of_events() -> None:
    """A consumer starts without them, and knows the rest of the entry."""
    vendor = SENDGRID | {"events": {"secret": "${EVENTS_KEY}", "secrets": ["${OTHER_KEY}"]}}
    [loaded] = Config.from_mapping({"vendors": [vendor]}, environ={}).vendors
    assert loaded.events == {"secret": "", "secrets": [""]}


def test_it_is_frozen_and_does_not_share_the_callers_data() -> None:
    options: dict[str, Any] = {"deep": {"x": 1}}
    config = Config(vendors=[VendorConfig("a", "my.mail:Vendor", options=options)])
    options["deep"]["x"] = 2
    assert config.vendors[0].options == {"deep": {"x": 1}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.retry = Retry()  # type: ignore[misc]  # it is frozen
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.retry.base = 1  # type: ignore[misc]  # the same


def test_it_can_be_copied_hashed_and_sent_to_another_process() -> None:
    config = Config(vendors=[{"name": "a", "type": "smtp", "host": "mail.example.com"}])
    assert copy.deepcopy(config) == config
    assert hash(pickle.loads(pickle.dumps(config))) == hash(config)


DICTS: Mapping[str, Any] = {
    "mongodb": dicts.MongoDBDict,
    "beanstalkd": dicts.BeanstalkdDict,
    "vendors": dicts.VendorDict,
    "routes": dicts.RouteDict,
    "failover": dicts.FailoverDict,
    "retry": dicts.RetryDict,
    "delivery": dicts.DeliveryDict,
    "consumer": dicts.ConsumerDict,
    "retention": dicts.RetentionDict,
    "limits": dicts.LimitsDict,
    "http": dicts.HttpDict,
    "smtp": dicts.SmtpDict,
    "suppression": dicts.SuppressionDict,
    "callbacks": dicts.CallbacksDict,
    "staging": dicts.StagingDict,
}


@for_each("name", SECTIONS)
def test_a_type_checker_knows_the_keys_and_types_of_a_section(name: str) -> None:
    expected: dict[str, tuple[type, bool]] = {}
    for own in [{}, *(row.keys for row in VENDOR_TYPES.values())] if name == "vendors" else [{}]:
        for key_name, key in {**own, **keys_of(SECTIONS[name])}.items():
            expected.setdefault(key_name, (key.type, may_be_none(key, own=key_name in own)))
    hints = get_type_hints(DICTS[name])
    assert {key_name: described(hint) for key_name, hint in hints.items()} == expected


def test_a_type_checker_knows_the_keys_and_types_of_every_queue() -> None:
    hints = get_type_hints(dicts.QueueDict)
    assert get_args(hints.pop("type")) == tuple(QUEUE_TYPES)
    keys = [keys_of(section) for section in QUEUE_TYPES.values()]
    for own in keys:
        expected = {name: (key.type, may_be_none(key, own=False)) for name, key in own.items()}
        assert {name: described(hints[name]) for name in own} == expected
    assert hints.keys() == {name for own in keys for name in own}


def may_be_none(key: Key, *, own: bool) -> bool:
    """None is an own key's default; of the others only where the default is None."""
    return not key.required and (own or key.default is None)


def described(hint: Any) -> tuple[type, bool]:
    """The type of a ``Key``, and whether it may be None."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    optional = NoneType in get_args(hint)
    plain = parts[0] if optional else hint
    if get_origin(plain) is Literal:
        return type(get_args(plain)[0]), optional
    if get_origin(plain) is Sequence and get_args(plain) != (str,):
        return list, optional
    nested = dict.fromkeys((dicts.EventsDict, dicts.MatchDict), dict)
    abstract: Mapping[Any, type] = {Sequence: tuple, Mapping: dict, **nested}
    abstract = {**abstract, dicts.RateDict: object, dicts.DashboardDict: object}
    return abstract.get(get_origin(plain) or plain, plain), optional


@for_each("section, own", [(Rate, dicts.RateDict), (Dashboard, dicts.DashboardDict)])
def test_a_type_checker_knows_the_keys_and_types_of_an_inner_section(
    section: type[Section], own: Any
) -> None:
    expected = {name: (key.type, key.default is None) for name, key in keys_of(section).items()}
    hints = get_type_hints(own)
    assert {name: described(hint) for name, hint in hints.items()} == expected


def test_a_rate_may_be_an_object_or_a_mapping() -> None:
    entry = SMTP | {"rate": {"per_second": 5, "zone": "America/New_York"}}
    loaded = vendor(entry)
    rate = Rate(per_second=5, zone="America/New_York")
    assert loaded.rate == rate
    assert VendorConfig("a", "smtp", keys={"host": "h"}, rate=rate).rate == rate
    assert Config(vendors=[loaded]).replace(retry={"base": 1}).vendors[0].rate == rate


def test_all_that_is_wrong_with_a_rate_is_reported_at_once() -> None:
    wrong = {"per_second": 0, "per_day": 0.5, "zone": "Mars/Base", "per_dy": 3, "gap": -1}
    assert problems({"vendors": [SMTP | {"rate": wrong}]}) == [
        'vendors[0].rate.per_dy: unknown key, did you mean "per_day"?',
        "vendors[0].rate.per_second: must be more than 0 and at most 1,000,000,000",
        "vendors[0].rate.per_day: must be an integer",
        "vendors[0].rate.gap: must be more than 0 and at most 86,400 seconds",
        "vendors[0].rate.zone: must be a time zone that this host knows, for example Europe/Berlin",
    ]


@for_each(
    "rate, problem",
    [
        (7, "vendors[0].rate: must be an object"),
        (
            {},
            f"vendors[0].rate: needs one of {', '.join((*PACES, *BUDGETS))}, gap",
        ),
        (
            {"gap": 1, "burst": 4},
            "vendors[0].rate.burst: needs one of per_second, per_minute, per_hour",
        ),
        (
            {"gap": 1, "count": "bytes"},
            "vendors[0].rate.count: must be one of messages, recipients",
        ),
    ],
)
def test_a_rate_that_limits_nothing_is_refused(rate: Any, problem: str) -> None:
    assert problems({"vendors": [SMTP | {"rate": rate}]}) == [problem]


# What is reported, and how


def test_all_problems_are_reported_at_once_each_with_its_path() -> None:
    found = problems(
        {
            "mongdb": {},
            "retry": {"bse": 1, "cap": -1},
            "delivery": {"deadline": "1"},
            "vendors": [{"type": "mailgun", "api_key": "${MAILGUN_API_KEY}"}, 7],
        }
    )
    assert sorted(found) == [
        "delivery.deadline: must be a number",
        'mongdb: unknown key, did you mean "mongodb"?',
        'retry.bse: unknown key, did you mean "base"?',
        "retry.cap: must be more than 0 and at most 1,000,000,000 seconds",
        "vendors[0].api_key: environment variable MAILGUN_API_KEY is not set",
        "vendors[0].domain: required key is missing",
        "vendors[0].name: required key is missing",
        "vendors[1]: must be an object",
    ]


@for_each(
    "queue, expected",
    [
        ([], ["queue: must be an object"]),
        ({}, ["queue.type: required key is missing"]),
        ({"type": "kafka", "url": 7}, [f"queue.type: must be one of {', '.join(QUEUE_TYPES)}"]),
        ({"type": ["redis"]}, [f"queue.type: must be one of {', '.join(QUEUE_TYPES)}"]),
        (
            {"type": "memory", "region": "eu-west-1", "tub": "x", "servers": []},
            [
                "queue.region: not a key of type memory",
                "queue.servers: not a key of type memory",
                'queue.tub: unknown key, did you mean "tube"?',
            ],
        ),
        (
            {"type": "beanstalkd", "servers": ["nowhere"], "tube": 7, "url": "redis://x"},
            [
                'queue.servers[0]: must be "host:port"',
                "queue.tube: must be a string",
                "queue.url: not a key of type beanstalkd",
            ],
        ),
    ],
)
def test_a_queue_that_cannot_be_used_is_said_with_all_its_problems(
    queue: Any, expected: list[str]
) -> None:
    assert sorted(problems({"queue": queue})) == expected


def test_the_queue_is_that_of_its_section_and_beanstalkd_without_one() -> None:
    config = Config(beanstalkd={"tube": "shop"})
    assert config.broker == Beanstalkd(tube="shop")
    assert config.replace(queue={"type": "memory", "tube": "x"}).broker == Memory(tube="x")
    assert Config(queue=Memory()).broker == Memory()
    assert Config(queue={"type": "beanstalkd", "tube": "y"}).broker == Beanstalkd(tube="y")


def test_a_problem_under_a_path_is_one_of_the_whole_and_the_first_stands() -> None:
    whole = Problems()
    section = whole.under("vendors[0]")
    section.under("options").add("size", "first")
    section.add("options.size", "second")
    section.add("", "third")
    whole.add("fine", None)
    assert whole == {"vendors[0].options.size": "first", "vendors[0]": "third"}
    assert section == {"options.size": "first", "": "third"}
    assert not whole.under("retry")


def test_keys_that_do_not_fit_together_are_reported_beside_other_problems() -> None:
    assert vendor_problems(SMTP | {"weight": 0, "username": "u"}) == [
        "vendors[0].weight: must be between 1 and 1,000",
        "vendors[0].password: username and password belong together",
    ]


def test_an_unknown_section_given_as_a_keyword_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"^vendor: unknown key, did you mean"):
        Config(vendor=[])  # type: ignore[call-arg]  # a misspelt name, as of who uses no checker


def test_a_section_made_alone_names_its_keys() -> None:
    with pytest.raises(ConfigError, match=r"^timeout: must be more than 0"):
        MongoDB(timeout=0)
    with pytest.raises(ConfigError, match=r"^foo: unknown key$"):
        VendorConfig("a", "sendgrid", keys={"api_key": "x", "foo": 1})


@for_each(
    "mapping, problem",
    [
        ({"retry": []}, "retry: must be an object"),
        ({"retry": None}, "retry: must be an object"),
        ({"vendors": {}}, "vendors: must be a list"),
        ({"retry": {1: 2}}, "retry.1: unknown key"),
        ({"retry": {"max_attempts": True}}, "retry.max_attempts: must be an integer"),
        ({"retry": {"max_attempts": None}}, "retry.max_attempts: must be an integer"),
        ({"retry": {"max_attempts": 2.0}}, "retry.max_attempts: must be an integer"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts: must be between 1 and 10,000"),
        ({"retry": {"base": "30"}}, "retry.base: must be a number"),
        (
            {"retry": {"base": float("nan")}},
            "retry.base: must be more than 0 and at most 1,000,000,000 seconds",
        ),
        (
            {"consumer": {"sweep_every": float("inf")}},
            "consumer.sweep_every: must be more than 0 and at most 86,400 seconds",
        ),
        ({"consumer": {"concurrency": 0}}, "consumer.concurrency: must be between 1 and 1,000"),
        ({"retention": {"sent_days": -1}}, "retention.sent_days: must be between 0 and 36,500"),
        ({"limits": {"max_size": 2**24}}, "limits.max_size: must be between 1 and 15,728,640"),
        ({"delivery": {"on_unknown": "drop"}}, "delivery.on_unknown: must be one of resend, park"),
        (
            {"delivery": {"deadline": 43_201}},
            "delivery.deadline: must be more than 0 and at most 43,200 seconds",
        ),
        (
            {"mongodb": {"timeout": 3601}},
            "mongodb.timeout: must be more than 0 and at most 3,600 seconds",
        ),
        ({"mongodb": {"database": 1}}, "mongodb.database: must be a string"),
        ({"mongodb": {"database": "a\0"}}, "mongodb.database: must not contain control characters"),
        (
            {"mongodb": {"uri": "\ud800"}},
            "mongodb.uri: must not contain control characters",
        ),
        (
            {"beanstalkd": {"servers": "h:1"}},
            "beanstalkd.servers: must be a list of strings",
        ),
        ({"beanstalkd": {"servers": [1]}}, "beanstalkd.servers: must be a list of strings"),
    ],
)
def test_a_wrong_value_is_refused(mapping: Mapping[str, Any], problem: str) -> None:
    assert problems(mapping) == [problem]


# Names and addresses


@for_each("name", ["", "a b", "a/b", "a.b", "a$b", "x" * 64, "ü" * 32, "local"])
def test_a_database_name_that_mongodb_refuses_is_refused(name: str) -> None:
    assert problems({"mongodb": {"database": name}})[0].startswith("mongodb.database: must ")


@for_each("name", ["", ".a", "a.", "a..b", "a$b", "system.x", "x" * 181])
def test_a_collection_name_that_mongodb_refuses_is_refused(name: str) -> None:
    assert problems({"mongodb": {"collection": name}})[0].startswith("mongodb.collection: must ")


@for_each("uri", ["", "localhost", "http://h", "mongodb://", "mongodb:///x"])
def test_a_uri_without_mongodb_scheme_or_host_is_refused(uri: str) -> None:
    assert problems({"mongodb": {"uri": uri}}) == [
        "mongodb.uri: must be mongodb://host or mongodb+srv://host"
    ]


@for_each("uri", ["mongodb+srv://u:p@h.example.com/?w=1", "mongodb://a:1,b:2/x"])
def test_both_uri_schemes_are_accepted(uri: str) -> None:
    assert Config.from_mapping({"mongodb": {"uri": uri}}, environ={}).mongodb.uri == uri


@for_each("name", ["", "-a", "a b", "ä", "x" * 191, "a\n"])
def test_a_tube_name_outside_of_the_protocol_is_refused(name: str) -> None:
    assert problems({"beanstalkd": {"tube": name}})[0].startswith("beanstalkd.tube: must ")


@for_each("name", ["x" * 190, "a-b", "+/;.$_()-0"])
def test_every_tube_name_of_the_protocol_is_accepted(name: str) -> None:
    assert Beanstalkd(tube=name).tube == name


@for_each(
    "address",
    ["", "h", "h:", ":1", "h:0", "h:65536", "::1:11300", "[h]:1", "[::x]:1", "u@h:1", "unix:/a",
     "/run/x.sock", "h:1/", "h:\u0661", "-h:1"],
)  # fmt: skip
def test_a_server_that_is_not_host_and_port_is_refused(address: str) -> None:
    found = problems({"beanstalkd": {"servers": ["127.0.0.1:11300", address]}})
    assert found == ['beanstalkd.servers[1]: must be "host:port"']


@for_each("servers", [[], ["h:1", "h:1"]])
def test_there_is_at_least_one_server_and_none_twice(servers: list[str]) -> None:
    assert problems({"beanstalkd": {"servers": servers}}) == [
        "beanstalkd.servers: must list at least one server, each once"
    ]


def test_servers_are_handed_out_as_host_and_port() -> None:
    config = Config(beanstalkd={"servers": ["[::1]:11300", "queue-1.example.com:1"]})
    assert config.beanstalkd.servers == ("[::1]:11300", "queue-1.example.com:1")
    assert config.beanstalkd.addresses == (("::1", 11300), ("queue-1.example.com", 1))


# Vendors


@for_each("name", ["", "a b", "a/b", "ä", "x" * 65, "a\n"])
def test_a_bad_vendor_name_is_refused(name: str) -> None:
    found = vendor_problems(SENDGRID | {"name": name})
    assert [problem.partition(":")[0] for problem in found] == ["vendors[0].name"]


def test_two_vendors_of_one_name_are_refused_even_when_one_is_broken() -> None:
    found = problems({"vendors": [SENDGRID, SMTP | {"weight": 0}]})
    assert found == [
        "vendors[1].name: duplicate name: vendors[0] has it too",
        "vendors[1].weight: must be between 1 and 1,000",
    ]


def test_an_unknown_type_names_the_known_ones() -> None:
    known = f'(known: {", ".join(sorted(VENDOR_TYPES))}, or "module:Class")'
    assert vendor_problems(SENDGRID | {"type": "sendgird"}) == [
        f'vendors[0].type: unknown vendor type, did you mean "sendgrid"? {known}'
    ]
    assert vendor_problems(SENDGRID | {"type": "a:"}) == [
        f"vendors[0].type: unknown vendor type {known}"
    ]


def test_the_simulation_is_no_type() -> None:
    assert "simulated" not in VENDOR_TYPES
    assert vendor_problems({"name": "a", "type": "simulated"})


def test_a_type_with_a_colon_takes_any_keys_of_its_own() -> None:
    own = vendor({"name": "a", "type": "my.mail:Vendor", "token": "x", "n": {"m": [1]}, "e": ""})
    assert own.keys == {"token": "x", "n": {"m": [1]}, "e": ""}


def test_an_unknown_own_key_of_a_known_type_is_refused() -> None:
    assert vendor_problems(SENDGRID | {"api_kee": 1, "from_": "a@x.org"}) == [
        'vendors[0].api_kee: unknown key, did you mean "api_key"?',
        'vendors[0].from_: unknown key, did you mean "from"?',
    ]


@for_each("sender", ["ann@example.com", "Ann <ann@example.com>", "<a@b>"])
def test_a_vendor_may_replace_the_sender(sender: str) -> None:
    assert vendor(SENDGRID | {"from": sender}).from_ == sender


@for_each("sender", ["", "ann", "a@b, c@d", "Ann <ann>", "a@b\r\nBcc: c@d", 1])
def test_a_sender_that_is_not_one_address_is_refused(sender: object) -> None:
    assert vendor_problems(SENDGRID | {"from": sender})[0].startswith("vendors[0].from: must ")


@for_each(
    "url",
    ["https://api.eu.mailgun.net", "https://h:8443", "http://127.0.0.1:8025", "http://[::1]:80",
     "http://localhost", "http://127.8.9.1"],
)  # fmt: skip
def test_a_base_url_is_scheme_host_and_port(url: str) -> None:
    assert vendor(SENDGRID | {"base_url": url}).base_url == url


@for_each(
    "url",
    ["", "h", "ftp://h", "https://", "https://h/", "https://h/v3", "https://h?x", "https://h#x",
     "https://u:p@h", "https://h:0", "https://h:99999", "https://h h", "HTTPS:/h"],
)  # fmt: skip
def test_any_other_base_url_is_refused(url: str) -> None:
    assert vendor_problems(SENDGRID | {"base_url": url}) == [
        "vendors[0].base_url: must be https://host[:port] and nothing after it"
    ]


@for_each("url", ["http://api.example.com", "http://10.0.0.1", "http://localhost.example.com"])
def test_plain_http_is_for_loopback_only(url: str) -> None:
    assert vendor_problems(SENDGRID | {"base_url": url}) == [
        "vendors[0].base_url: must be https: plain http is allowed for loopback hosts only"
    ]


def test_a_vendor_of_any_type_may_name_its_authorities() -> None:
    for entry in (SENDGRID, SMTP, AZURE):
        assert vendor(entry).ca_file is None
        assert vendor(entry | {"ca_file": "/etc/ca.pem"}).ca_file == "/etc/ca.pem"
    assert vendor_problems(SENDGRID | {"ca_file": ""}) == [
        "vendors[0].ca_file: must be the path of a file"
    ]


@for_each("tls, port", [("starttls", 587), ("implicit", 465), ("none", 25)])
def test_the_smtp_port_follows_from_tls(tls: str, port: int) -> None:
    assert vendor(SMTP | {"tls": tls}).keys["port"] == port
    assert vendor(SMTP | {"tls": tls, "port": 1025}).keys["port"] == 1025


def test_absent_own_keys_have_their_default() -> None:
    assert vendor(SMTP).keys == {
        "host": "mail.example.com",
        "port": 587,
        "tls": "starttls",
        **dict.fromkeys(("username", "password", "helo", "client_cert", "client_key")),
        "connections": None,
    }


@for_each("half", ["username", "password"])
def test_an_smtp_login_is_whole(half: str) -> None:
    assert vendor_problems(SMTP | {half: "x"}) == [
        "vendors[0].password: username and password belong together"
    ]


SES = {"name": "a", "type": "ses", "region": "eu-west-1"}
AZURE = {"name": "a", "type": "azure", "base_url": "https://a.example.com", "access_key": "a2V5"}


def test_ses_needs_a_region_and_whole_keys_or_none() -> None:
    keys = {"access_key_id": "A", "secret_access_key": "B"}
    assert set(vendor(SES).keys.values()) == {"eu-west-1", None}
    assert vendor(SES | keys | {"session_token": "C"}).keys["session_token"] == "C"
    whole = "access_key_id and secret_access_key belong together"
    for half in keys:
        assert vendor_problems(SES | {half: "A"}) == [f"vendors[0].secret_access_key: {whole}"]
    lone = "needs access_key_id and secret_access_key"
    assert vendor_problems(SES | {"session_token": "C"}) == [f"vendors[0].session_token: {lone}"]
    name = "must be a region name, for example eu-west-1"
    assert vendor_problems(SES | {"region": "eu-west-1.example.com/"}) == [
        f"vendors[0].region: {name}"
    ]


def test_azure_needs_an_address_and_a_key_in_base64() -> None:
    assert vendor(AZURE).base_url == "https://a.example.com"
    without = {"name": "a", "type": "azure"}
    assert vendor_problems(without) == [
        "vendors[0].base_url: required key is missing",
        "vendors[0].access_key: required key is missing",
    ]
    for key in ("key", "a2V5!", "ä"):
        problem = "vendors[0].access_key: must be base64, as the portal shows it"
        assert vendor_problems(AZURE | {"access_key": key}) == [problem]


def test_a_producer_needs_no_address_of_azure() -> None:
    entry = AZURE | {"base_url": "${AZURE_ENDPOINT}", "access_key": "${AZURE_KEY}"}
    found = vendor(entry, secrets=False)
    assert (found.base_url, found.keys["access_key"]) == (None, "")


def test_a_password_goes_without_tls_to_loopback_only() -> None:
    login = SMTP | {"tls": "none", "username": "u", "password": "p"}
    assert vendor_problems(login) == [
        "vendors[0].tls: a password without TLS is allowed for loopback hosts only"
    ]
    assert vendor(login | {"host": "::1"}).keys["password"] == "p"
    assert vendor(SMTP | {"tls": "none"}).keys["tls"] == "none"


@for_each(
    "entry, problem",
    [
        (SMTP | {"tls": []}, "tls: must be a string"),
        (SMTP | {"tls": "ssl"}, "tls: must be one of starttls, implicit, none"),
        (SMTP | {"port": "25"}, "port: must be an integer"),
        (SMTP | {"host": "a b"}, "host: must be a host name or an IP address"),
        (MAILGUN | {"domain": "x/y"}, "domain: must be a host name or an IP address"),
        (SENDGRID | {"api_key": "x\n"}, "api_key: must not contain control characters"),
        (SENDGRID | {"api_key": ""}, "api_key: must not be empty"),
        (SENDGRID | {"sandbox": 1}, "sandbox: must be true or false"),
        (SENDGRID | {"options": []}, "options: must be an object"),
    ],
)
def test_a_wrong_vendor_key_is_refused(entry: Mapping[str, Any], problem: str) -> None:
    assert vendor_problems(entry) == [f"vendors[0].{problem}"]


# The clocks that follow from others


def test_without_keys_a_lease_lasts_two_minutes_and_a_job_comes_back_after_three() -> None:
    clocks = Config().delivery
    assert (clocks.settle_timeout, clocks.lease, clocks.ttr) == (20, 120, 180)
    assert isinstance(clocks.ttr, int)


@for_each("timeout", [0.1, 1, 10, 60, 3600])
@for_each("deadline", [0.1, 1, 60, 600, 43_200])
def test_a_result_can_be_stored_while_the_lease_holds_and_the_job_comes_back_later(
    timeout: float, deadline: float
) -> None:
    """With a margin of ten seconds, or of a tenth of the lease; and no lease lasts for a day."""
    clocks = Config(mongodb={"timeout": timeout}, delivery={"deadline": deadline}).delivery
    stored = timeout + clocks.deadline + clocks.settle_timeout
    assert stored < clocks.lease - min(10, clocks.lease / 10)
    assert clocks.lease < clocks.ttr
    assert clocks.lease <= 86_400


@for_each("replace", [Config.replace, dataclasses.replace])
def test_another_timeout_gives_other_clocks_to_its_own_config_only(
    replace: Callable[..., Config],
) -> None:
    config = Config()
    quick = replace(config, mongodb=MongoDB(timeout=1))
    assert (quick.delivery.settle_timeout, quick.delivery.lease) == (2, 84)
    assert config.delivery.lease == 120
    assert pickle.loads(pickle.dumps(quick)).delivery.lease == 84


@for_each("name", ["record", "settle_timeout", "lease", "ttr"])
def test_a_file_that_names_a_derived_clock_is_told_to_remove_it(name: str) -> None:
    assert problems({"delivery": {name: 7}}) == [
        f"delivery.{name}: follows from delivery.deadline and mongodb.timeout: remove it"
    ]


# Values from outside


def test_strings_take_environment_variables_anywhere() -> None:
    config = Config.from_mapping(
        {
            "mongodb": {"uri": "mongodb://u:${PW}@${HOST}:27017"},
            "beanstalkd": {"servers": ["${HOST}:11300"]},
            "vendors": [{"name": "a", "type": "m:C", "options": {"x": ["${PW}"], "n": 1}}],
        },
        environ={"HOST": "db", "PW": "pass"},
    )
    assert config.mongodb.uri == "mongodb://u:pass@db:27017"
    assert config.beanstalkd.servers == ("db:11300",)
    assert config.vendors[0].options == {"x": ["pass"], "n": 1}


def test_a_doubled_dollar_stands_for_itself() -> None:
    entry = SENDGRID | {"api_key": "$${X}${Y}$$Z$"}
    assert vendor(entry, environ={"Y": "y"}).keys["api_key"] == "${X}y$$Z$"


@for_each("text", ["${}", "${a-b}", "${OPEN", "x${1}"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    assert vendor_problems(SENDGRID | {"api_key": text}) == [
        "vendors[0].api_key: malformed reference: write ${NAME}, or $${ for a plain ${"
    ]


def test_a_missing_variable_is_named_with_the_full_path() -> None:
    mapping = {
        "mongodb": {"uri": "mongodb://${U}:${P}@h"},
        "beanstalkd": {"servers": ["${S}"]},
        "vendors": [SENDGRID, {"name": "b", "type": "m:C", "options": {"a": [{"b": "${O}"}]}}],
    }
    assert problems(mapping) == [
        "mongodb.uri: environment variable U, P is not set",
        "beanstalkd.servers[0]: environment variable S is not set",
        "vendors[1].options.a[0].b: environment variable O is not set",
    ]


def test_a_credential_file_stands_in_for_a_variable_that_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "KEY").write_text("from-file\n")
    (tmp_path / "BAD").write_bytes(b"\xff")
    folder = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    entry = SENDGRID | {"api_key": "${KEY}"}
    assert vendor(entry, environ=folder).keys["api_key"] == "from-file"
    assert vendor(entry, environ=folder | {"KEY": "set"}).keys["api_key"] == "set"
    for name in ("BAD", "ABSENT"):
        assert vendor_problems(SENDGRID | {"api_key": f"${{{name}}}"}, environ=folder) == [
            f"vendors[0].api_key: environment variable {name} is not set"
        ]


def test_a_producer_needs_no_vendor_secrets() -> None:
    config = Config.from_mapping(
        {
            "vendors": [
                SENDGRID | {"api_key": "${K}", "from": "A <${F}>", "base_url": "${B}"},
                SMTP
                | {"name": "b", "host": "${H}", "tls": "none", "username": "u", "password": "${P}"},
            ]
        },
        secrets=False,
        environ={},
    )
    sendgrid, smtp = config.vendors
    assert sendgrid.keys == {"api_key": ""}
    assert (sendgrid.from_, sendgrid.base_url) == (None, None)
    assert (smtp.keys["host"], smtp.keys["password"]) == ("", "")
    assert config.replace(retry=Retry(base=1)).vendors == config.vendors


def test_a_producer_needs_everything_else() -> None:
    mapping = {"mongodb": {"uri": "${U}"}, "vendors": [{"name": "a", "type": "sendgrid"}]}
    assert problems(mapping, secrets=False) == [
        "mongodb.uri: environment variable U is not set",
        "vendors[0].api_key: required key is missing",
    ]


def test_a_vendor_that_is_no_mapping_is_named_for_a_producer_too() -> None:
    mapping = {"vendors": ["sendgrid"]}
    assert (
        problems(mapping, secrets=False) == problems(mapping) == ["vendors[0]: must be an object"]
    )


# Services


KEY = {"name": "shop", "sha256": "0f" * 32}


def test_the_keys_of_callers_are_sections_of_their_own() -> None:
    entry = {**KEY, "scope": ["send"], "from": ["*@example.org", "ann@example.com"]}
    http = {"keys": [entry, {**KEY, "name": "b"}]}
    key, other = Config.from_mapping({"http": http}).http.keys
    assert (key.name, key.scope, key.from_) == ("shop", ("send",), tuple(entry["from"]))
    assert (other.scope, other.from_) == (("send", "read"), ())
    assert key.sha256 not in repr(key)
    assert "example" not in repr(key)
    assert hash(Http(keys=(key, other))) == hash(Http(keys=(key, other)))


@for_each(
    "http, problem",
    [
        ({"keys": {}}, "http.keys: must be a list of objects"),
        ({"keys": ["mq_secret"]}, "http.keys[0]: must be an object"),
        ({"keys": [{"name": "a"}]}, "http.keys[0].sha256: required key is missing"),
        (
            {"keys": [{**KEY, "sha256": "mq_secret"}]},
            "http.keys[0].sha256: must be 64 hexadecimal digits, as `mailqueue key new` prints it",
        ),
        ({"keys": [KEY, KEY]}, "http.keys[1].name: duplicate name: keys[0] has it too"),
        (
            {"keys": [{**KEY, "scope": ["sned"]}]},
            "http.keys[0].scope: must list one or more of send, read, operate",
        ),
        ({"keys": [{**KEY, "scope": []}]}, "http.keys[0].scope: must list one or more of send,"),
        ({"keys": [{**KEY, "from": ["ann"]}]}, "http.keys[0].from: must be one address, or *@ and"),
        ({"keys": [{**KEY, "from": [1]}]}, "http.keys[0].from: must be a list of strings"),
        ({"keys": [{**KEY, "secret": "x"}]}, "http.keys[0].secret: unknown key"),
        ({"port": 65_536}, "http.port: must be between 0 and 65,535"),
        ({"host": "http://x"}, "http.host: must be a host name or an IP address"),
    ],
)
def test_a_wrong_key_of_http_is_refused(http: Mapping[str, Any], problem: str) -> None:
    (found,) = problems({"http": http})
    assert found.startswith(problem)


@for_each(
    "smtp, problem",
    [
        ({"tls": "implicit"}, "smtp.certificate: required key is missing: tls is implicit"),
        ({"key": "k.pem"}, "smtp.certificate: required key is missing: key belongs to it"),
        ({"tls": "ssl"}, "smtp.tls: must be one of starttls, implicit, none"),
    ],
)
def test_a_wrong_key_of_smtp_is_refused(smtp: Mapping[str, Any], problem: str) -> None:
    assert problems({"smtp": smtp}) == [problem]


def test_a_certificate_may_hold_its_private_key() -> None:
    assert Config(smtp={"tls": "implicit", "certificate": "both.pem"}).smtp.key_ is None


# Files


def write(folder: Path, content: str | bytes, mode: int = 0o600) -> Path:
    file = folder / "config.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file.chmod(mode)
    return file


def test_the_sample_runs_as_it_is_and_spells_out_the_defaults() -> None:
    config = Config.load(SAMPLE, secrets=False, environ={})
    assert [vendor.type for vendor in config.vendors] == ["sendgrid", "mailgun", "smtp"]
    assert config.replace(vendors=[]) == Config()


def test_the_sample_needs_its_secrets_in_production() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(SAMPLE, environ={})
    assert caught.value.problems == (
        "vendors[0].api_key: environment variable SENDGRID_API_KEY is not set",
        "vendors[1].api_key: environment variable MAILGUN_API_KEY is not set",
        "vendors[2].password: environment variable SMTP_PASSWORD is not set",
    )


def test_the_file_is_found_by_argument_then_environment_then_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, '{"retry": {"base": 1}}')
    (tmp_path / "other.json").write_text('{"retry": {"base": 2}}')
    (tmp_path / "third.json").write_text('\ufeff{"retry": {"base": 3}}', "utf-8")
    other = {"MAILQUEUE_CONFIG": str(tmp_path / "other.json")}
    assert Config.load(environ={}).retry.base == 1
    assert Config.load(environ=other).retry.base == 2
    assert Config.load("third.json", environ=other).retry.base == 3


@pytest.mark.parametrize(
    "content, problem",
    [
        ('{"a": 1,\n "b" 2}', "line 2, column 6: Expecting ':' delimiter"),
        ("", "line 1, column 1: Expecting value"),
        (b'{"a": "\xff"}', "not JSON in UTF-8"),
        ("[" * 100_000, "not JSON in UTF-8"),
        ("[]", "must hold a JSON object"),
        (
            '{"retry": {"cap": 1, "base": 1, "cap": 2, "cap": 3}}',
            'duplicate key "cap"',
        ),
    ],
)
def test_a_file_that_is_not_proper_json_is_named(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        Config.load(file)
    assert caught.value.problems == (f"{file}: {problem}",)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json: No such file"):
        Config.load(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="Is a directory"):
        Config.load(tmp_path)


OWN = {"name": "a", "type": "m:C", "token": "secret"}


@pytest.mark.parametrize(
    "mapping, mode, warned",
    [
        ({"vendors": [SENDGRID]}, 0o644, True),
        ({"vendors": [OWN]}, 0o644, True),
        ({"mongodb": {"uri": "mongodb://u:p@h"}}, 0o644, True),
        ({"vendors": [SENDGRID]}, 0o640, False),
        ({"vendors": [SENDGRID | {"api_key": "${K}"}]}, 0o644, False),
        ({"vendors": [SMTP]}, 0o644, False),
        ({"mongodb": {"uri": "mongodb://u:${K}@h"}}, 0o644, False),
        ({}, 0o644, False),
    ],
)
def test_secrets_in_a_file_that_all_can_read_are_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mapping: Mapping[str, Any],
    mode: int,
    warned: bool,
) -> None:
    file = write(tmp_path, json.dumps(mapping), mode)
    with caplog.at_level(logging.WARNING, logger="mailqueue.config"):
        Config.load(file, environ={"K": "k"})
    assert [event(record) for record in caplog.records] == [READABLE_BY_ALL] * warned
    assert [vars(r)["facts"] for r in caplog.records] == [{"file": str(file)}] * warned


# What is never shown

SECRETS = {
    "mongodb": {"uri": "mongodb://hidden:hidden@h"},
    "vendors": [
        SENDGRID | {"api_key": "hidden", "from": "hidden@x.org", "options": {"k": "hidden"}},
        SMTP | {"name": "b", "username": "hidden", "password": "hidden"},
        {"name": "c", "type": "m:C", "token": "hidden"},
    ],
}


def test_no_repr_shows_a_key_a_password_or_an_address() -> None:
    config = Config.from_mapping(SECRETS, environ={})
    assert "sendgrid" in repr(config)
    for shown in (config, config.mongodb, *config.vendors, config.vendors):
        assert "hidden" not in repr(shown)
        assert "hidden" not in str(shown)


def test_no_error_quotes_a_value() -> None:
    broken = {
        "mongodb": {"uri": "hidden", "database": "hidden.hidden", "timeout": "hidden"},
        "beanstalkd": {"servers": ["hidden"], "tube": "hidden hidden"},
        "vendors": [
            SENDGRID | {"api_key": ["hidden"], "from": "hidden", "base_url": "http://hidden"},
            SMTP | {"name": "hidden hidden", "tls": "hidden", "type": "hidden"},
        ],
    }
    found = problems(broken)
    assert len(found) == 10
    assert "hidden" not in "\n".join(found)


def test_help_shows_no_variable_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``os.environ`` as the default of a parameter stands in its signature, with every secret."""
    monkeypatch.setenv("SENDGRID_API_KEY", "planted")
    for name in mailqueue.__all__:
        assert "planted" not in pydoc.render_doc(getattr(mailqueue, name))


def test_only_the_word_production_is_production() -> None:
    assert is_production({"MAILQUEUE_ENV": "production"})
    assert not is_production({"MAILQUEUE_ENV": "Production"})
    assert not is_production({})


@for_each("type_", ["smtp", "examples.custom_vendor:Vendor"])
def test_events_of_a_vendor_that_sends_none_are_refused(type_: str) -> None:
    entry = {"name": "a", "type": type_, "events": {"secret": "x"}}
    entry |= {"host": "127.0.0.1"} if type_ == "smtp" else {}
    assert problems({"vendors": [entry]}) == [
        "vendors[0].events: events of this type of vendor are not read: remove it"
    ]


def test_routes_are_a_list() -> None:
    assert problems({"routes": {"match": {}}}) == ["routes: must be a list"]


def test_a_route_to_nobody_is_told_beside_what_is_wrong_with_a_vendor() -> None:
    vendors = [SMTP | {"rate": {"gap": -1}}]
    routes = [{"match": {"tag": "a"}, "vendors": names} for names in ([SMTP["name"]], ["b"])]
    assert problems({"vendors": vendors, "routes": routes}) == [
        "vendors[0].rate.gap: must be more than 0 and at most 86,400 seconds",
        f"routes[1].vendors: names a vendor that is not configured (configured: {SMTP['name']})",
    ]


def test_a_lease_that_sqs_cannot_hold_is_refused() -> None:
    sqs = {
        "type": "sqs",
        "region": "eu-west-1",
        "urgent": "https://x/1/u",
        "normal": "https://x/1/n",
    }
    (problem,) = problems({"queue": sqs, "delivery": {"deadline": 40_000}})
    assert problem.startswith("delivery.deadline: must be less with SQS")
