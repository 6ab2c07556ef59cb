"""The list of e-mails, and the story of one of them.

Decides: what a person sees of an e-mail. Addresses, the subject, the body, files and a vendor's own
words are content: only ``content`` shows them, and the log says to whom.
"""

from __future__ import annotations

from mailqueue.dashboard.pages import Page, PageRequest

PAGE = 50  # e-mails


def page(request: PageRequest) -> Page:
    """``GET /emails``: the newest first."""
    stored = request.backend.store.page(PAGE)
    return Page("emails.html", "E-mails", {"emails": [each.document for each in stored]}, "emails")
