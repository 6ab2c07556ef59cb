"""How vendors are spoken to: HTTP/1.1 and SMTP, under one deadline for the whole call.

Decides: for how long a connection may be opened, and may idle before it carries another e-mail.
"""

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 20.0  # a connection that idled for longer may be dead without our knowing
