"""Choosing the next token of each row from its logits; knows transformers' logits processors, no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


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

    def goes_on(self, answer: int, token: int, num_new: int) -> bool:
        """Return whether an answer goes on behind a token, of which it has so many new ones by now."""
        return token not in self.eos_token_ids and num_new < self.max_new_tokens[answer]


class Chooser:
    """Choose next tokens with transformers' own logits processors, in the order of `model.generate`.

    Each row draws from a generator of its own, so that a row's tokens do not depend on which rows are beside it.
    Nothing here waits for the device.
    """

    def __init__(self, decoding: Decoding, device: torch.device) -> None:
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
        self.generators = [torch.Generator(device).manual_seed(decoding.seed) for _ in decoding.max_new_tokens]

    def choose(self, rows: Sequence[int], ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the next id of some rows, int64, (B,).

        Args:
            rows: Which rows these are of those that the decoding names, B numbers.
            ids: What was said so far, int64, (B, T); what fills a shorter row up must be an id of that row.
            logits: Of the next token, (B, vocabulary).
        """
        scores = self.processors(ids, logits)  # type: ignore[arg-type]
        if self.is_greedy:
            return scores.argmax(-1)
        shares = scores.softmax(-1)
        # How `torch.multinomial` draws one number, to the last bit; itself it waits for the device to check the shares.
        waits = torch.empty_like(shares)
        for row, wait in zip(rows, waits, strict=True):
            wait.exponential_(generator=self.generators[row])
        return (shares / waits).argmax(-1)
