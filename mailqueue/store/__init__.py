"""MongoDB: the documents of the e-mails, and every guarded write to them.

``document`` says what is stored and how it is read; ``transitions``, ``interventions`` and
``ledger`` are the updates, pure values, and ``merging`` makes few of many. ``mongo`` makes writes
durable, ``bulk`` says what follows when MongoDB refuses one, and ``store`` puts these together.
``audit`` and ``schema`` say what is legal, ``lease`` lets one process at a time sweep, ``indexes``
and ``uri`` are about the server. ``ids`` makes identities.
"""
