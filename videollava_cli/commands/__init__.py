"""The commands, one a file: options to settings, a call, and what to print."""
