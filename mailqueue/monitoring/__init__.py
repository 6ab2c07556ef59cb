"""What the state of an installation means: for ``doctor``, the metrics and the dashboard.

- ``overview``: the state of an installation, read at once.
- ``metrics`` and ``server``: that for Prometheus, with the extra ``metrics``.
- ``explanation``: one e-mail in sentences. ``history`` says what happened, ``outlook`` what comes
  next, ``turns`` whose turn it is, under the ``conditions`` of now; ``wording`` has the texts.
- ``finding``: one thing that was looked at, how bad it is, and what to do about it.
- ``situations``: what is wrong with the state of an installation.
- ``words``: numbers and spans as a person reads them.

Assumes: nothing of the command line, of a terminal or of a browser.

Promises: it reads, and changes nothing.
"""
