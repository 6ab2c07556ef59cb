"""Which vendor sends an e-mail: rotation, and the vendors' health shared by all processes.

``router`` is the door: it chooses a vendor, gives a permit with it, and takes the report of what
came of it. ``carrier`` is a vendor as routing sees it, ``rotation`` the pure rules of choice and of
health, ``health`` keeps them in MongoDB, and ``bulkheads`` keep one slow vendor from taking all
senders. ``limits`` keeps the vendors' rates and budgets: by ``pace``, the pure rule, ``pool``, what
one process has in hand, and ``reservations`` in MongoDB.
"""
