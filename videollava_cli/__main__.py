"""`python -m videollava_cli` is `vllava`."""

import sys

from videollava_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
