"""Which vendor sends an e-mail: rotation, and the vendors' health shared by all processes."""
