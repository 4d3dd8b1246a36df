"""`vllava chat`: options, how it starts, what is said, and the slash commands."""
