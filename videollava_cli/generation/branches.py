"""The token loop behind a kept prefix: one prompt, or several that go on from it as branches of one row.

The branches' tokens lie behind the prefix in one KV cache, in the order in which they were run. A mask lets each
branch see the prefix and its own tokens, and positions are counted within the branch. So the prefix is neither copied
nor read once a branch: a step reads it once for all of them.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, VideoLlavaForConditionalGeneration

from videollava_cli.generation.choosing import Chooser, Decoding
from videollava_cli.generation.model import embed

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
def prefill(model: VideoLlavaForConditionalGeneration, cache: DynamicCache, rest: Rest) -> None:
    """Run what the cache does not hold of a prompt, and add it to the cache."""
    row = _Row(model, cache, num_branches=1)
    row.run(embed(model, rest.ids[row.num_shared :], rest.features), [len(rest.ids) - row.num_shared])


@torch.inference_mode()
def generate_behind(
    model: VideoLlavaForConditionalGeneration, cache: DynamicCache, rests: Sequence[Rest], decoding: Decoding
) -> Generator[list[int | None], None, None]:
    """Generate token ids of prompts that all begin with what the cache holds, one step at a time.

    Each prompt is given what `model.generate` would give it alone. The loop runs in the calling thread and only as
    far as it is asked. What it runs is added to the cache: for one prompt its rest and then each id but the last,
    for several their tokens mixed.

    Args:
        model: The model; for several prompts its attention takes any mask.
        cache: Keys and values of the shared beginning, of one row; empty, or shorter than every prompt.
        rests: The prompts.
        decoding: How tokens are chosen, with a budget for each prompt.

    Yields:
        For each prompt its next token id, end-of-answer ids included; None for one that has ended.
    """
    row = _Row(model, cache, num_branches=len(rests))
    new = [rest.ids[row.num_shared :] for rest in rests]
    features = [feature for rest in rests for feature in rest.features]
    chooser = Chooser(decoding, model.device)
    said = _filled_up([rest.ids for rest in rests], model.device)
    logits = row.run(embed(model, [token for ids in new for token in ids], features), [len(ids) for ids in new])
    is_open = list(range(len(rests)))
    num_new = 0
    while True:
        num_new += 1
        chosen = chooser.choose(is_open, said, logits)
        tokens = dict(zip(is_open, chosen.tolist(), strict=True))
        yield [tokens.get(branch) for branch in range(len(rests))]
        goes_on = [
            token not in decoding.eos_token_ids and num_new < decoding.max_new_tokens[branch]
            for branch, token in tokens.items()
        ]
        is_open = [branch for branch, goes in zip(is_open, goes_on, strict=True) if goes]
        if not is_open:
            return
        staying = torch.tensor(goes_on, device=said.device)
        said = torch.cat([said, chosen[:, None]], dim=1)[staying]
        counts = [int(branch in is_open) for branch in range(len(rests))]
        logits = row.run(embed(model, [tokens[branch] for branch in is_open], ()), counts)


class _Row:
    """A KV cache of one row: whose token is where, and what each may see."""

    def __init__(self, model: VideoLlavaForConditionalGeneration, cache: DynamicCache, *, num_branches: int) -> None:
        self.model = model
        self.cache = cache
        self.num_shared = int(cache.get_seq_length())
        self.lengths = [self.num_shared] * num_branches
        self.owners = torch.full((self.num_shared,), PREFIX, device=model.device)

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
