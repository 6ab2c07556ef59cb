"""MongoDB: the documents, and every guarded write to them."""
