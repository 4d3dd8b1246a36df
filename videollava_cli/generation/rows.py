"""The token loop for a left-padded batch of prompts about different media.

Media that rows share are run once, and rows that end are dropped.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli.generation.caching import new_cache, select_rows
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
    model: VideoLlavaForConditionalGeneration, fan: Fan | Prompts, decoding: Decoding
) -> Generator[dict[int, int], None, None]:
    """Generate token ids of many rows, one step at a time, exactly as `model.generate` would for each alone.

    The loop runs in the calling thread and only as far as it is asked: closing the generator stops the model.

    Args:
        model: The model.
        fan: Beginnings and the rows that go on from them, or whole prompts.
        decoding: How tokens are chosen, with a budget for each row.

    Yields:
        The next token id, end-of-answer ids included, of each row that has not ended.
    """
    chooser = Chooser(decoding, model.device)
    rows = _Rows(model)
    logits = rows.run(fan) if isinstance(fan, Prompts) else rows.run_fan(fan)
    is_open = list(range(len(decoding.max_new_tokens)))
    num_new = 0
    while True:
        num_new += 1
        chosen = chooser.choose(is_open, rows.said, logits)
        tokens = dict(zip(is_open, chosen.tolist(), strict=True))
        yield tokens
        staying = [
            place
            for place, (row, token) in enumerate(tokens.items())
            if token not in decoding.eos_token_ids and num_new < decoding.max_new_tokens[row]
        ]
        if not staying:
            return
        if len(staying) < len(is_open):
            rows.keep(staying)
            chosen = chosen[staying]
            is_open = [is_open[place] for place in staying]
        logits = rows.go_on(chosen[:, None])


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of ids as one batch padded on the left, and its attention mask: int64, (B, T) each."""
    length = max(len(row) for row in rows)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class _Rows:
    """A KV cache of rows padded on the left or in their middle, and what was said in each.

    `mask` is int64, (B, T), 0 at padding; `said` int64, (B, T), padding filled up with an id of the row.
    """

    def __init__(self, model: VideoLlavaForConditionalGeneration) -> None:
        self.model = model
        self.cache = new_cache(model.config)

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
        self.keep(fan.sources)
        ids, mask = pad_left(fan.rests, 0, self.model.device)
        self.mask = torch.cat([self.mask, mask], dim=1)
        self.said = torch.cat([self.said, ids.where(mask.bool(), ids[:, -1:])], dim=1)
        return self._forward(ids)

    def go_on(self, ids: torch.Tensor) -> torch.Tensor:
        """Run one new id a row, (B, 1); return the logits behind them."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(ids.shape)], dim=1)
        self.said = torch.cat([self.said, ids], dim=1)
        return self._forward(ids)

    def keep(self, places: Sequence[int]) -> None:
        """Keep some rows, in the order of their places, which may name one several times."""
        indices = torch.tensor(places, device=self.mask.device)
        self.mask, self.said = self.mask[indices], self.said[indices]
        select_rows(self.cache, indices)

    def _forward(self, ids: torch.Tensor, media: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
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
