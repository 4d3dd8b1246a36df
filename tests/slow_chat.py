"""`vllava` with an engine that takes a rest in its first answer, after as many pieces as the first argument says.

The model, its tokens and everything else are real; the rest ends when it is interrupted or the process dies.
"""

import sys
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any

from videollava_cli.cli import main
from videollava_cli.engine import Chunk, Engine

REST_SECONDS = 600.0


def rest_in_answer(which: int, num_pieces: int) -> None:
    """Let the engine rest in an answer, counted from 0."""
    stream = Engine.stream
    answers = iter(range(1 << 30))

    def resting(self: Engine, *arguments: Any) -> Generator[Chunk, None, None]:
        is_the_one = next(answers) == which
        with closing(stream(self, *arguments)) as chunks:
            for number, chunk in enumerate(chunks, 1):
                yield chunk
                if is_the_one and number == num_pieces:
                    time.sleep(REST_SECONDS)

    Engine.stream = resting  # type: ignore[method-assign]


if __name__ == "__main__":
    rest_in_answer(int(sys.argv.pop(1)), int(sys.argv.pop(1)))
    sys.exit(main())
