"""The token loop: prefill, then one token at a time, for one prompt or a left-padded batch; and detokenizing.

Knows `model.forward` and token ids; nothing of files, prompts' text or the terminal.
"""

import inspect
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    VideoLlavaForConditionalGeneration,
)

REPLACEMENT = "\ufffd"  # what incomplete UTF-8 is detokenized to


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """A batch of prompts as the model takes them.

    `input_ids` and `attention_mask` are int64, (B, T), padded on the left, placeholders expanded to one id per
    media token. `pixel_values` is (num_images, 3, S, S), `pixel_values_videos` (num_clips, 8, 3, S, S), each in
    the order of the placeholders, row by row; None when there are none.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor | None = None
    pixel_values_videos: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.input_ids.shape != self.attention_mask.shape or self.input_ids.ndim != 2:
            raise ValueError(f"ids {self.input_ids.shape} and mask {self.attention_mask.shape} do not match")
        if not bool(self.attention_mask[:, -1].all()):
            raise ValueError("a prompt ends with padding: pad on the left")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen and when an answer ends.

    A `temperature` of 0 is greedy. `max_new_tokens` has one entry a row.
    """

    max_new_tokens: tuple[int, ...]
    eos_token_ids: frozenset[int]
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int = 0


@torch.inference_mode()
def generate(
    model: VideoLlavaForConditionalGeneration, prompts: Prompts, decoding: Decoding
) -> Generator[list[int | None], None, None]:
    """Generate token ids, one step at a time, exactly as `model.generate` would.

    The loop runs in the calling thread and only as far as it is asked: closing the generator stops the model.

    Yields:
        For each row its next token id, end-of-answer ids included; None for a row that has ended.
    """
    chooser = _Chooser(model, decoding)
    cache = DynamicCache(config=model.config.get_text_config())
    ids, mask = prompts.input_ids, prompts.attention_mask
    logits = _prefill(model, prompts, cache)
    is_open = [True] * len(ids)
    for num_new in range(1, max(decoding.max_new_tokens) + 1):
        chosen = chooser.choose(ids, logits)
        step = [token if is_open[row] else None for row, token in enumerate(chosen.tolist())]
        yield step
        for row, token in enumerate(step):
            if token in decoding.eos_token_ids or num_new >= decoding.max_new_tokens[row]:
                is_open[row] = False
        if not any(is_open):
            return
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = _forward(model, ids[:, -1:], mask, cache)


def _prefill(model: VideoLlavaForConditionalGeneration, prompts: Prompts, cache: DynamicCache) -> torch.Tensor:
    """Run the whole prompts with their media; return the last position's logits, (B, vocabulary)."""
    media: dict[str, torch.Tensor] = {}
    if prompts.pixel_values is not None:
        media[image_argument(model)] = prompts.pixel_values
    if prompts.pixel_values_videos is not None:
        media["pixel_values_videos"] = prompts.pixel_values_videos
    return _forward(model, prompts.input_ids, prompts.attention_mask, cache, media)


def _forward(
    model: VideoLlavaForConditionalGeneration,
    new_ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    media: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run new ids behind what the cache holds; return the last position's logits in float32."""
    positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -new_ids.shape[1] :]
    output = model(
        input_ids=new_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **(media or {}),
    )
    logits: torch.Tensor = output.logits[:, -1].float()
    return logits


def image_argument(model: VideoLlavaForConditionalGeneration) -> str:
    """Return what `forward` calls an image's pixels: `pixel_values`, before transformers 5.23 `pixel_values_images`."""
    names = inspect.signature(model.forward).parameters
    return "pixel_values" if "pixel_values" in names else "pixel_values_images"


class _Chooser:
    """Choose next tokens with transformers' own logits processors, in the order of `model.generate`."""

    def __init__(self, model: VideoLlavaForConditionalGeneration, decoding: Decoding) -> None:
        self.processors = LogitsProcessorList()
        if decoding.repetition_penalty != 1.0:
            self.processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
        self.is_greedy = decoding.temperature == 0
        if self.is_greedy:
            return
        self.processors.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_k is not None:
            self.processors.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p is not None:
            self.processors.append(TopPLogitsWarper(decoding.top_p))
        self.generator = torch.Generator(model.device).manual_seed(decoding.seed)

    def choose(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the next id of each row, int64, (B,)."""
        scores = self.processors(ids, logits)  # type: ignore[arg-type]
        if self.is_greedy:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1, generator=self.generator)[:, 0]


class Detokenizer:
    """Turn a growing row of token ids into pieces of text whose sum is the text of all ids.

    A piece is held back while its end is an incomplete UTF-8 sequence. Bytes that are no UTF-8 at all may turn what
    was returned into replacement signs afterwards; it stays as it was, and what follows is not held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, token_id: int) -> str:
        """Add an id; return the text that is certain by now and was not returned before."""
        self.ids.append(token_id)
        whole = self._detokenized()
        return "" if whole.endswith(REPLACEMENT) else self._grow_to(whole)

    def finish(self) -> str:
        """Return what was held back."""
        return self._grow_to(self._detokenized())

    def _detokenized(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _grow_to(self, whole: str) -> str:
        piece, self.text = whole[len(self.text) :], whole
        return piece


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of ids as one batch padded on the left, and its attention mask: int64, (B, T) each."""
    length = max(len(row) for row in rows)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def end_of_answer_ids(model: VideoLlavaForConditionalGeneration) -> frozenset[int]:
    """Return the ids that end an answer, from the generation config, else from the text config."""
    for config in (model.generation_config, model.config.get_text_config()):
        found: Any = getattr(config, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device ran out of memory; on a CPU torch raises a plain RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def only_row(steps: Iterator[list[int | None]]) -> Iterator[int]:
    """Yield the ids of a batch of one row."""
    for (token,) in steps:
        if token is not None:
            yield token
