"""AWS's SDK as the measure: what botocore signs, with the clock stopped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from unittest.mock import patch

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def botocores_authorization(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    keys: tuple[str, str, str | None],
    scope: tuple[str, str],
    now: datetime,
) -> str:
    """The Authorization of a POST; ``scope`` is region and service."""
    request = AWSRequest(method="POST", url=url, headers=dict(headers), data=body)
    region, service = scope
    with patch("botocore.auth.get_current_datetime", lambda: now):
        SigV4Auth(Credentials(*keys), service, region).add_auth(request)
    return str(request.headers["Authorization"])
