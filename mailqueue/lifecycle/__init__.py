"""What an attempt's outcome means for an e-mail: pure decisions, no I/O.

``outcomes`` has the values: an e-mail's status, what came of an attempt, what is decided.
``decide`` has the rules: a ``Case`` and a ``SendResult`` go in, a ``Decision`` comes out.
``values`` makes such values quickly.
"""
