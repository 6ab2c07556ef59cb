"""What an attempt's outcome means for an e-mail: pure decisions, no I/O."""
