"""Azure's SDK as the measure: what its policy signs, with the clock stopped."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import patch
from urllib.parse import urlsplit

from azure.communication.email._shared.policy import HMACCredentialsPolicy
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest


def sdks_headers(
    method: str, url: str, body: str, *, access_key: str, date: str
) -> Mapping[str, str]:
    """The headers of a request, under lower-case names."""
    parts = urlsplit(url)
    request = HttpRequest(method, url, data=body or None)
    policy = HMACCredentialsPolicy(f"{parts.scheme}://{parts.netloc}", access_key)
    clock = "azure.communication.email._shared.policy.get_current_utc_time"
    with patch(clock, lambda: date):
        policy.on_request(PipelineRequest(request, PipelineContext(None)))
    return {name.lower(): value for name, value in request.headers.items()}
