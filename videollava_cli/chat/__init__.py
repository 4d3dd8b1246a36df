"""A conversation over turns: what was said and shown, what is kept on disk, and how lines come in; prints nothing."""
