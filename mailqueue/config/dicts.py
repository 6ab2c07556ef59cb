"""The sections of a configuration as mappings, for type checkers.

Decides: nothing at run time. Type checkers and editors check ``Config(retry={"base": 5})`` by these
types. They read no run-time data, so the keys are written a second time here. Their meanings,
defaults and ranges are in ``config`` and ``vendor_types``; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict


class MongoDBDict(TypedDict, total=False):
    """``mongodb``."""

    uri: str
    database: str
    collection: str
    timeout: float


class BeanstalkdDict(TypedDict, total=False):
    """``beanstalkd``."""

    servers: Sequence[str]
    tube: str


class QueueDict(TypedDict, total=False):
    """``queue``: the keys of all types."""

    type: Required[Literal["beanstalkd", "redis", "sqs", "mongodb", "memory"]]
    servers: Sequence[str]
    tube: str
    url: str
    timeout: float
    region: str
    urgent: str
    normal: str
    callbacks: str | None
    intake: str | None
    endpoint_url: str | None
    change_stream: bool


class EventsDict(TypedDict, total=False):
    """``events`` of one of ``vendors``: the keys of all types."""

    secret: str
    secrets: Sequence[str]
    basic_auth: str
    topic_arn: str
    url: str


class RateDict(TypedDict, total=False):
    """``rate`` of one of ``vendors``."""

    per_second: float | None
    per_minute: float | None
    per_hour: float | None
    per_day: int | None
    per_month: int | None
    gap: float | None
    burst: int
    count: Literal["messages", "recipients"]
    zone: str


_From = TypedDict("_From", {"from": str | None}, total=False)  # a keyword of Python


class VendorDict(_From, total=False):
    """One of ``vendors``: what every vendor has, and the own keys of all types.

    For a type of your own (``module:Class``), whose keys are not known here, pass a
    ``VendorConfig`` with ``keys``.
    """

    name: Required[str]
    type: Required[str]
    weight: int
    base_url: str | None
    ca_file: str | None
    timeout: float
    options: Mapping[str, Any]
    sandbox: bool
    rate: RateDict | None
    events: EventsDict | None

    access_key: str
    access_key_id: str | None
    api_key: str
    client_cert: str | None
    client_key: str | None
    configuration_set: str | None
    connections: int | None
    domain: str
    helo: str | None
    host: str
    message_stream: str | None
    password: str | None
    port: int | None
    project_id: str
    region: str | None
    secret_access_key: str | None
    secret_key: str
    session_token: str | None
    tls: Literal["starttls", "implicit", "none"] | None
    username: str | None


class MatchDict(TypedDict, total=False):
    """``match`` of one of ``routes``."""

    tag: str | Sequence[str]
    from_domain: str | Sequence[str]
    to_domain: str | Sequence[str]


class RouteDict(TypedDict):
    """One of ``routes``."""

    match: MatchDict
    vendors: Sequence[str]


class FailoverDict(TypedDict, total=False):
    """``failover``."""

    unavailable_for: float
    max_wait: float


class RetryDict(TypedDict, total=False):
    """``retry``."""

    max_attempts: int
    give_up_after: float
    base: float
    cap: float


class DeliveryDict(TypedDict, total=False):
    """``delivery``."""

    on_unknown: Literal["resend", "park"]
    deadline: float


class ConsumerDict(TypedDict, total=False):
    """``consumer``."""

    concurrency: int
    sweep_every: float
    max_memory: int
    one_core: bool


class RetentionDict(TypedDict, total=False):
    """``retention``."""

    content: Literal["kept", "until_sent"]
    content_days: float | None
    searchable: bool
    sent_days: float
    failed_days: float


class LimitsDict(TypedDict, total=False):
    """``limits``."""

    max_size: int


_Senders = TypedDict("_Senders", {"from": Sequence[str]}, total=False)


class ApiKeyDict(_Senders, total=False):
    """One of ``http.keys``."""

    name: Required[str]
    sha256: Required[str]
    scope: Sequence[str]


class DashboardDict(TypedDict, total=False):
    """``http.dashboard``."""

    read_only: bool
    proxy_header: str | None
    proxies: Sequence[str]
    hosts: Sequence[str]


class HttpDict(TypedDict, total=False):
    """``http``."""

    host: str
    port: int
    keys: Sequence[ApiKeyDict]
    timeout: float
    requests: int
    connections: int
    max_memory: int
    share_port: bool
    dashboard: DashboardDict


class SmtpDict(TypedDict, total=False):
    """``smtp``."""

    host: str
    port: int
    tls: Literal["starttls", "implicit", "none"]
    certificate: str | None
    key: str | None
    connections: int
    max_memory: int
    timeout: float


class SuppressionDict(TypedDict, total=False):
    """``suppression``."""

    apply: Sequence[str]
    vendor_lists: bool


class CallbacksDict(TypedDict, total=False):
    """``callbacks``."""

    url: str | None
    types: Sequence[str]
    secrets: Sequence[str]
    allow: Sequence[str]
    concurrency: int
    timeout: float


class StagingDict(TypedDict, total=False):
    """``staging``."""

    redirect_to: str | None
    allow: Sequence[str]
