"""How often answers in 16 bits depend on what is answered beside them: for `parity.py`, which only tells it.

In a batch the same numbers are summed in another order, so that 16 bits round them otherwise, and where two tokens are
about as likely the other one may win. In 32 bits all answers are equal, which `parity.py` and the tests require.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from videollava_cli.engine import Engine, Request
from videollava_cli.engine.startup import load
from videollava_cli.prompt import Conversation, Turn
from videollava_cli.reader import MediaReader

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SUFFIXES = {".mp4", ".webm", ".gif", ".png", ".jpg"}
QUESTIONS = ("What happens?", "What color is it?", "Which way does it move?", "How many shapes are there?")
FORMATS = ("float16", "bfloat16")
BATCH_SIZE = 8  # as `vllava batch` takes at most on a CPU


@dataclass(frozen=True, slots=True)
class Count:
    """Of so many answers in a number format, how many are in a batch what they are alone."""

    dtype: str
    num_equal: int
    num_answers: int


def count_equal() -> Iterator[Count]:
    """Ask `tiny` every question about every example, in batches and alone, in each format of 16 bits."""
    for dtype in FORMATS:
        engine = load("tiny", device="cpu", dtype=dtype)
        requests = _requests(engine)
        batches = [requests[first : first + BATCH_SIZE] for first in range(0, len(requests), BATCH_SIZE)]
        batched = [text for batch in batches for text in _texts(engine, batch)]
        alone = [_texts(engine, [request])[0] for request in requests]
        yield Count(dtype, sum(one == other for one, other in zip(batched, alone, strict=True)), len(requests))


def _requests(engine: Engine) -> list[Request]:
    """Return each question about each example, neighbours about different ones."""
    paths = sorted(path for path in EXAMPLES.iterdir() if path.suffix in SUFFIXES)
    with MediaReader(offline=True) as reader:
        media = [reader.read(reader.find(str(path)), engine.checkpoint.pixels) for path in paths]
    return [
        Request(Conversation.about([medium.kind], (Turn(question),)), (medium,), engine.settings)
        for question in QUESTIONS
        for medium in media
    ]


def _texts(engine: Engine, requests: list[Request]) -> list[str]:
    engine.clear_cache()
    texts = dict.fromkeys(requests, "")
    for request, chunk in engine.answer(requests, max_num_seqs=BATCH_SIZE):
        texts[request] += chunk.text
    return list(texts.values())
