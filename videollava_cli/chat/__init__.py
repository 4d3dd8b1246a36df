"""A conversation over turns: what was asked and shown, what a typed line does, and how it is saved."""
