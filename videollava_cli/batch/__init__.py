"""Many questions about many media: a work list in, JSON lines out."""
