"""How vendors are spoken to: HTTP/1.1 and SMTP, under one deadline for the whole call."""
