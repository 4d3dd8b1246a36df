"""The JSON record of an answer, the same for `ask --json`, `chat --json` and `batch`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from videollava_cli.engine import Chunk
from videollava_cli.errors import VllavaError
from videollava_cli.media import Medium


def answer_line(
    media: Sequence[Medium], question: str, answer: Chunk, *, model: str, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the record of an answer.

    Args:
        media: What the question was about.
        question: What was asked.
        answer: The last chunk of the answer, with the whole text in place of its own. An answer that was stopped has
            no usage: its record has neither token counts nor timings.
        model: The preset, hub id or folder that answered.
        seconds: Timings besides those of the usage, such as `read_s` and `load_s`.
    """
    line: dict[str, Any] = {
        "media": [medium.as_json() for medium in media],
        "question": question,
        "prompt": answer.prompt,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
    }
    usage = answer.usage
    if usage is None:
        return line | {"model": model}
    timings = {**seconds, "prefill_s": usage.prefill_seconds, "generate_s": usage.generate_seconds}
    return line | {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "new_tokens": usage.new_tokens,
        "model": model,
        "timings": {name: round(value, 4) for name, value in timings.items()},
    }


def error_line(media: Sequence[Mapping[str, Any]], question: str, error: VllavaError) -> dict[str, Any]:
    """Return the record of a question that failed; `media` are as `Medium.as_json` has them."""
    return {"media": list(media), "question": question, "error": error_record(error)}


def error_record(error: VllavaError) -> dict[str, str]:
    """Return the object that stands in a record in place of an answer."""
    return {"type": type(error).__name__, "message": " ".join(str(error).split())}


def json_text(record: Mapping[str, Any]) -> str:
    r"""Return a record as one line with its end.

    The bytes of a file name that are no Unicode stand as `\udcXX` in it, as Python writes them: `json.loads` and
    `os.fsencode` give back the name to the byte, and other readers of JSON show a replacement sign.
    """
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"
