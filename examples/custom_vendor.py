"""A vendor of your own: ``"type": "custom_vendor:Pigeon"`` in the configuration names this class.

The consumers must be able to import its module. This vendor has an HTTP API and one key of its own,
``"loft"``. ``HttpVendor`` keeps connections and deadlines, and decides what no answer means. A
vendor without HTTP is a ``mailqueue.vendors.Vendor`` with a ``send`` method.
"""

from __future__ import annotations

from mailqueue import Email
from mailqueue.vendors import (
    Attempt,
    ConfigError,
    HttpVendor,
    Outcome,
    Request,
    Response,
    SendResult,
    VendorConfig,
    json_request,
)


class Pigeon(HttpVendor):
    """Carries short texts. It answers 201 with the ring's number when a pigeon is on its way."""

    default_base_url = "https://pigeons.example.com"

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        if not config.keys.get("loft"):
            raise ConfigError([f"vendors.{config.name}.loft: required key is missing"])

    def can_carry(self, email: Email) -> str | None:
        too_long = "too long for a pigeon" if len(email.text or "") > 100 else None
        return super().can_carry(email) or too_long

    def build(self, email: Email, attempt: Attempt) -> Request:
        people = [person.ascii for person in email.recipients]
        note = {"to": people, "note": f"{email.subject}: {email.text}", "id": attempt.email_id}
        return json_request("/flights", note, {"Authorization": self.config.keys["loft"]})

    def parse(self, response: Response, email: Email) -> SendResult:  # noqa: ARG002  # the port's
        ring = response.string("ring")
        if response.status == 201 and ring:
            return SendResult(outcome=Outcome.ACCEPTED, code="201", message_id=ring)
        return self.by_status(response, response.string("error"))
