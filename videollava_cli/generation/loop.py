"""The loop that every answer is written by: choose a token of each lane, hand it out, run it; knows no model.

A step that only has to be started is started before the host knows the tokens that it runs: the host reads them, looks
whether an answer has ended and turns them into text while the device is at work. The price is one step too many at the
end, which nobody waits for.
"""

from collections.abc import Generator
from typing import Protocol

import torch

from videollava_cli.generation.choosing import Chooser, Decoding
from videollava_cli.generation.graphs import sent_to_host


class Lanes(Protocol):
    """Rows or branches that get one token each a step."""

    @property
    def drop_share(self) -> float:
        """Ended lanes are dropped when the open ones are no more than this share."""

    @property
    def runs_ahead(self) -> bool:
        """Whether a step is to be started before the tokens that it runs are read."""

    def go_on(self, ids: torch.Tensor) -> torch.Tensor:
        """Run one new id a lane, int64, (lanes,); return the logits behind them, float32, (lanes, vocabulary)."""

    def keep(self, places: torch.Tensor) -> None:
        """Keep some lanes, int64, in the order of their places."""

    def finish(self) -> None:
        """Leave the cache as others can use it."""


def write(
    lanes: Lanes, said: torch.Tensor, logits: torch.Tensor, decoding: Decoding
) -> Generator[dict[int, int], None, None]:
    """Generate the token ids of answers, one step at a time.

    Args:
        lanes: Where they are written; at first one for each answer.
        said: Ids so far, int64, (lanes, T); what fills a shorter one up is an id of its own.
        logits: Behind them, float32, (lanes, vocabulary).
        decoding: How tokens are chosen, with a budget for each answer.

    Yields:
        The next token id, end-of-answer ids included, of each answer that has not ended.
    """
    chooser = Chooser(decoding, logits.device)
    answers = is_open = list(range(len(decoding.max_new_tokens)))
    num_new = 0
    try:
        while True:
            num_new += 1
            chosen = chooser.choose(answers, said, logits)
            said = torch.cat([said, chosen[:, None]], dim=1)
            read = sent_to_host(chosen)
            is_last = num_new >= max(decoding.max_new_tokens[answer] for answer in is_open)
            is_ahead = lanes.runs_ahead and not is_last
            if is_ahead:
                logits = lanes.go_on(chosen)
            tokens = dict(zip(answers, read(), strict=True))
            yield {answer: tokens[answer] for answer in is_open}
            is_open = [answer for answer in is_open if decoding.goes_on(answer, tokens[answer], num_new)]
            if not is_open:
                return
            if len(is_open) < len(answers) and len(is_open) <= lanes.drop_share * len(answers):
                places = torch.tensor([answers.index(answer) for answer in is_open], device=said.device)
                chosen, said, logits, answers = chosen[places], said[places], logits[places], is_open
                lanes.keep(places)
            if not is_ahead:
                logits = lanes.go_on(chosen)
    finally:
        lanes.finish()
