"""The token loop for a left-padded batch of prompts, each with media of its own."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, VideoLlavaForConditionalGeneration

from videollava_cli.generation.caching import new_cache
from videollava_cli.generation.choosing import Chooser, Decoding
from videollava_cli.generation.model import image_argument


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


@torch.inference_mode()
def generate(
    model: VideoLlavaForConditionalGeneration, prompts: Prompts, decoding: Decoding
) -> Generator[list[int | None], None, None]:
    """Generate token ids, one step at a time, exactly as `model.generate` would.

    The loop runs in the calling thread and only as far as it is asked: closing the generator stops the model.

    Yields:
        For each row its next token id, end-of-answer ids included; None for a row that has ended.
    """
    chooser = Chooser(decoding, model.device)
    cache = new_cache(model.config)
    mask = prompts.attention_mask
    # A row is filled up with its own last id, which a repetition penalty then counts as said, as it was.
    said = prompts.input_ids.where(mask.bool(), prompts.input_ids[:, -1:])
    logits = _prefill(model, prompts, cache)
    is_open = [True] * len(said)
    for num_new in range(1, max(decoding.max_new_tokens) + 1):
        chosen = chooser.choose(range(len(said)), said, logits)
        step = [token if is_open[row] else None for row, token in enumerate(chosen.tolist())]
        yield step
        for row, token in enumerate(step):
            if token in decoding.eos_token_ids or num_new >= decoding.max_new_tokens[row]:
                is_open[row] = False
        if not any(is_open):
            return
        said = torch.cat([said, chosen[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = _forward(model, chosen[:, None], mask, cache)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of ids as one batch padded on the left, and its attention mask: int64, (B, T) each."""
    length = max(len(row) for row in rows)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


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
