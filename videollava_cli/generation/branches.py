"""The token loop behind a kept prefix: one prompt, or several that go on from it as branches of one row.

The branches' tokens lie behind the prefix in one KV cache, in the order in which they were run. A mask lets each
branch see the prefix and its own tokens, and positions are counted within the branch. So the prefix is neither copied
nor read once a branch: a step reads it once for all of them.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli.generation.caching import GrowingCache, reserve
from videollava_cli.generation.choosing import Decoding
from videollava_cli.generation.fixed import FixedLanes, Start, room_for
from videollava_cli.generation.loop import write
from videollava_cli.generation.model import Steps, best_steps, embed

PREFIX = -1  # whose token it is that every branch sees


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """A prompt of which a KV cache holds the beginning.

    `ids` are those of the whole prompt, placeholders expanded; `features` those of the media that are not in the
    cache, each (tokens of the medium, hidden size), in order.
    """

    ids: Sequence[int]
    features: Sequence[torch.Tensor] = ()


@torch.inference_mode()
def prefill(model: VideoLlavaForConditionalGeneration, cache: GrowingCache, rest: Rest) -> None:
    """Run what the cache does not hold of a prompt, and add it to the cache."""
    row = _Row(model, cache, num_branches=1)
    row.run(embed(model, rest.ids[row.num_shared :], rest.features), [len(rest.ids) - row.num_shared])


@torch.inference_mode()
def generate_behind(
    model: VideoLlavaForConditionalGeneration,
    cache: GrowingCache,
    rests: Sequence[Rest],
    decoding: Decoding,
    steps: Steps | None = None,
) -> Generator[list[int | None], None, None]:
    """Generate token ids of prompts that all begin with what the cache holds, one step at a time.

    Each prompt is given what `model.generate` would give it alone. The loop runs in the calling thread and only as
    far as it is asked, or a step further where starting one costs nothing. What it runs is added to the cache: for one
    prompt its rest and then its ids, perhaps without the last; for several their tokens mixed.

    Args:
        model: The model; for several prompts its attention takes any mask.
        cache: Keys and values of the shared beginning, of one row; empty, or shorter than every prompt.
        rests: The prompts.
        decoding: How tokens are chosen, with a budget for each prompt.
        steps: How steps are run; by default as is best for the model's device.

    Yields:
        For each prompt its next token id, end-of-answer ids included; None for one that has ended.
    """
    num_steps = max(decoding.max_new_tokens) - 1
    is_fixed = num_steps > 0 and (steps or best_steps(model)) is Steps.FIXED
    row = _Row(model, cache, num_branches=len(rests))
    new = [rest.ids[row.num_shared :] for rest in rests]
    features = [feature for rest in rests for feature in rest.features]
    if is_fixed:
        reserve(cache, room_for(row.num_shared + sum(map(len, new)), len(rests), num_steps))
    logits = row.run(embed(model, [token for ids in new for token in ids], features), [len(ids) for ids in new])
    said = _filled_up([rest.ids for rest in rests], model.device)
    lanes = FixedLanes(model, cache, row.start(num_steps)) if is_fixed else row
    with closing(write(lanes, said, logits, decoding)) as written:
        for tokens in written:
            yield [tokens.get(branch) for branch in range(len(rests))]


class _Row:
    """A KV cache of one row that grows by each step: whose token is where, and what each may see."""

    drop_share = 1.0
    runs_ahead = False

    def __init__(self, model: VideoLlavaForConditionalGeneration, cache: GrowingCache, *, num_branches: int) -> None:
        self.model = model
        self.cache = cache
        self.num_shared = int(cache.get_seq_length())
        self.lengths = [self.num_shared] * num_branches
        self.is_open = list(range(num_branches))
        self.owners = torch.full((self.num_shared,), PREFIX, device=model.device)

    def go_on(self, ids: torch.Tensor) -> torch.Tensor:
        """Run one new id of each open branch, (branches,); return the logits behind them."""
        counts = [int(branch in self.is_open) for branch in range(len(self.lengths))]
        return self.run(self.model.get_input_embeddings()(ids), counts)

    def keep(self, places: torch.Tensor) -> None:
        """Keep some branches open, int64, in the order of their places."""
        self.is_open = [self.is_open[place] for place in places.tolist()]

    def finish(self) -> None:
        """Leave the cache as it is: it grew all along."""

    def start(self, num_steps: int) -> Start:
        """Return where the branches stand, for steps of one shape."""
        branches = torch.arange(len(self.lengths), device=self.owners.device)
        seen = (self.owners == PREFIX) | (self.owners == branches[:, None])
        return Start(seen[None], torch.tensor([self.lengths], device=self.owners.device), num_steps)

    def run(self, embedded: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Run new tokens, those of the first branch first.

        Args:
            embedded: What the language model is given, (T, hidden size).
            counts: How many of them are of each branch, T in all.

        Returns:
            Logits behind the last token of each branch that has new ones, float32, (branches, vocabulary).
        """
        device = self.owners.device
        positions = [
            length + offset for length, count in zip(self.lengths, counts, strict=True) for offset in range(count)
        ]
        new_owners = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))
        self.owners = torch.cat([self.owners, new_owners])
        ends = torch.tensor(counts).cumsum(0)[torch.tensor(counts) > 0] - 1
        output = self.model(
            inputs_embeds=embedded[None],
            attention_mask=self._mask(new_owners),
            position_ids=torch.tensor([positions], device=device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=ends.to(device),
        )
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def _mask(self, new_owners: torch.Tensor) -> torch.Tensor:
        """Return which tokens of the row the new ones see; a branch alone sees all that came before.

        Returns:
            int64, (1, T), for one branch; else as the attention takes it, (1, 1, new, T): bool, or what is added.
        """
        owners = self.owners
        if len(self.lengths) == 1:
            return torch.ones(1, len(owners), dtype=torch.int64, device=owners.device)
        places = torch.arange(len(owners), device=owners.device)
        is_own = (owners == new_owners[:, None]) & (places <= places[-len(new_owners) :, None])
        is_seen = (is_own | (owners == PREFIX))[None, None]
        if self.model.config.get_text_config()._attn_implementation != "eager":
            return is_seen
        hidden = torch.finfo(self.model.dtype).min
        return torch.zeros(is_seen.shape, dtype=self.model.dtype, device=owners.device).masked_fill(~is_seen, hidden)


def _filled_up(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Return rows of ids as one tensor, int64, (B, T), a shorter one led by its own first id over and over."""
    length = max(len(row) for row in rows)
    return torch.tensor([[row[0]] * (length - len(row)) + list(row) for row in rows], device=device)
