"""Keyword options from Python, for editors and type checkers; `tests/test_keywords.py` holds them to the settings."""

from collections.abc import Sequence
from typing import Literal, TypedDict


class AnswerOptions(TypedDict, total=False):
    """What can be set for one answer."""

    max_new_tokens: int
    temperature: float
    top_p: float | None
    top_k: int | None
    repetition_penalty: float
    seed: int
    system: str | None
    prompt_style: Literal["newline", "joined"]
    start: float | str | None
    end: float | str | None
    at: str | Sequence[float | str] | None


class LoadOptions(AnswerOptions, total=False):
    """What can be set when a checkpoint is loaded; what concerns answers is their default."""

    revision: str | None
    offline: bool
    device: str
    dtype: Literal["auto", "float16", "bfloat16", "float32"]
    load_4bit: bool
    load_8bit: bool
    cache: bool
    force: bool
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None
    decode_threads: int | None
    fit: Literal["crop", "pad", "stretch"]
