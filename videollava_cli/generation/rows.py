"""The token loop for a left-padded batch of prompts about different media.

Media that rows share are run once, and rows that end are dropped.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli.generation.caching import new_cache, reserve, select_rows
from videollava_cli.generation.choosing import Decoding
from videollava_cli.generation.fixed import FixedLanes, Start, room_for
from videollava_cli.generation.loop import write
from videollava_cli.generation.model import Steps, best_steps, image_argument


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


@dataclass(frozen=True, slots=True, eq=False)
class Fan:
    """Rows that go on from beginnings, several of them from the same one.

    `beginnings` are run once each. Row number i is `beginnings` number `sources[i]` followed by the ids `rests[i]`, at
    least one.
    """

    beginnings: Prompts
    sources: Sequence[int]
    rests: Sequence[Sequence[int]]


@torch.inference_mode()
def generate(
    model: VideoLlavaForConditionalGeneration, fan: Fan | Prompts, decoding: Decoding, steps: Steps | None = None
) -> Generator[dict[int, int], None, None]:
    """Generate token ids of many rows, one step at a time, exactly as `model.generate` would for each alone.

    The loop runs in the calling thread and only as far as it is asked, or a step further where starting one costs
    nothing: closing the generator stops the model.

    Args:
        model: The model.
        fan: Beginnings and the rows that go on from them, or whole prompts.
        decoding: How tokens are chosen, with a budget for each row.
        steps: How steps are run; by default as is best for the model's device.

    Yields:
        The next token id, end-of-answer ids included, of each row that has not ended.
    """
    num_steps = max(decoding.max_new_tokens) - 1
    is_fixed = num_steps > 0 and (steps or best_steps(model)) is Steps.FIXED
    rows = _Rows(model, num_steps if is_fixed else 0)
    logits = rows.run(fan) if isinstance(fan, Prompts) else rows.run_fan(fan)
    lanes = FixedLanes(model, rows.cache, rows.start(num_steps)) if is_fixed else rows
    yield from write(lanes, rows.said, logits, decoding)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of ids as one batch padded on the left, and its attention mask: int64, (B, T) each."""
    length = max(len(row) for row in rows)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class _Rows:
    """A KV cache of rows padded on the left or in their middle, which grows by each step.

    `mask` is int64, (B, T), 0 at padding; `said` int64, (B, T), what the prompts say, padding filled up with an id of
    the row.
    """

    drop_share = 1.0
    runs_ahead = False

    def __init__(self, model: VideoLlavaForConditionalGeneration, num_fixed_steps: int) -> None:
        self.model = model
        self.cache = new_cache(model.config)
        self.num_fixed_steps = num_fixed_steps

    def run(self, prompts: Prompts) -> torch.Tensor:
        """Run whole prompts with their media; return the logits behind them, float32, (B, vocabulary)."""
        media: dict[str, torch.Tensor] = {}
        if prompts.pixel_values is not None:
            media[image_argument(self.model)] = prompts.pixel_values
        if prompts.pixel_values_videos is not None:
            media["pixel_values_videos"] = prompts.pixel_values_videos
        self.mask = prompts.attention_mask
        # A row is filled up with its own last id, which a repetition penalty then counts as said, as it was.
        self.said = prompts.input_ids.where(self.mask.bool(), prompts.input_ids[:, -1:])
        return self._forward(prompts.input_ids, media)

    def run_fan(self, fan: Fan) -> torch.Tensor:
        """Run the beginnings, then the rows behind them; return the logits behind these."""
        self.run(fan.beginnings)
        sources = torch.tensor(fan.sources, device=self.model.device)
        self.keep(sources)
        ids, mask = pad_left(fan.rests, 0, self.model.device)
        self.mask = torch.cat([self.mask, mask], dim=1)
        self.said = torch.cat([self.said[sources], ids.where(mask.bool(), ids[:, -1:])], dim=1)
        return self._forward(ids)

    def go_on(self, ids: torch.Tensor) -> torch.Tensor:
        """Run one new id a row, (B,); return the logits behind them."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], dim=1)
        return self._forward(ids[:, None])

    def keep(self, places: torch.Tensor) -> None:
        """Keep some rows, int64, in the order of their places, which may name one several times."""
        self.mask = self.mask[places]
        select_rows(self.cache, places)

    def finish(self) -> None:
        """Leave the cache as it is: it grew all along."""

    def start(self, num_steps: int) -> Start:
        """Return where the rows stand, for steps of one shape."""
        return Start(self.mask.bool()[:, None], self.mask.sum(-1, keepdim=True), num_steps)

    def _forward(self, ids: torch.Tensor, media: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        if self.num_fixed_steps:
            reserve(self.cache, room_for(self.mask.shape[-1], 1, self.num_fixed_steps))
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **(media or {}),
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits
