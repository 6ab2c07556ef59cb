"""How vendors are spoken to: HTTP/1.1 and SMTP, under one deadline for the whole call.

For HTTP read ``transport``, then ``connection``, ``response`` and ``proxy``; for SMTP
``smtp_connection``, then ``smtp_pool`` and ``smtp_replies``. ``deadline`` ends what takes too long,
``failures`` names what went wrong, ``idle`` says how long a connection may wait for its next use.

Decides: for how long a connection may be opened, and may idle before it carries another e-mail.
"""

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 20.0  # a connection that idled for longer may be dead without our knowing
