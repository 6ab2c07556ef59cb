"""For schemathesis: batches are strict. A permissive one takes what is not valid, and says so."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_headers(context: Any, headers: Any) -> Any:
    """No other mode."""
    if headers and "X-Batch-Validation" in headers:
        headers["X-Batch-Validation"] = "strict"
    return headers
