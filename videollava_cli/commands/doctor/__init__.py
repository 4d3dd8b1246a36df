"""`vllava doctor`: options, and how findings are printed."""
