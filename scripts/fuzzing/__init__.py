"""What `scripts/fuzz_reader.py` is made of."""
