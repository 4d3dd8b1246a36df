"""`vllava batch`: options, the run over all items, where its lines go, and Ray."""
