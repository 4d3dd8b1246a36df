"""Steps of one shape: a token of every lane a step, by work that can be recorded once and replayed.

A lane is a row of a batch, or a branch of one row: it gets one new token a step. Whatever changes from step to step,
ids, positions, places and mask, is in tensors on the device, and the step itself moves them on. Attention reads the
whole room and a mask hides what is not written, or not the lane's own.

Room is made for `STEPS_OF_ROOM` further steps at a time. Reading it in vain costs: of the 7B in fp16 a token of a lane
is 0.5 MiB, so 256 of them are 0.13 GB a step, beside the 13.5 GB of weights that each step reads, and for 32 lanes
4.3 GB. New room must be recorded anew, which is expected to take as long as about ten steps: 4 % of 256.

Lanes that have ended are run along until no more than half are open (`DROP_SHARE`). Dropping one means recording anew,
and for rows of a batch copying the others' keys and values; running one along costs the reading of its own, nothing of
the weights. So at most half of the cache is read in vain, and N lanes are recorded at most log2(N) times more.
"""

from dataclasses import dataclass

import torch
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli.generation.caching import GrowingCache, cut, fix, reserve, rounded_up, select_rows
from videollava_cli.generation.graphs import Recorder

STEPS_OF_ROOM = 256
DROP_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where lanes stand when their steps begin; (B, n) is (lanes, 1) for rows, (1, lanes) for branches of one row.

    `seen` is bool, (B, n, T): which of the cache's T tokens a lane sees. `positions` is int64, (B, n): that of its
    next token. At most `num_steps` are to come.
    """

    seen: torch.Tensor
    positions: torch.Tensor
    num_steps: int


class FixedLanes:
    """Lanes whose steps have one shape."""

    drop_share = DROP_SHARE

    def __init__(self, model: VideoLlavaForConditionalGeneration, cache: GrowingCache, start: Start) -> None:
        self.model = model
        self.cache = cache
        self.length = start.seen.shape[-1]  # tokens in the cache, those of all lanes
        self.num_steps = start.num_steps
        self._settle(start.seen, start.positions)

    @property
    def runs_ahead(self) -> bool:
        """Whether the next step is only started by the host, so that it can be before this one's tokens are known."""
        return self.step.recorder.is_recorded and self.num_free > 0

    def go_on(self, ids: torch.Tensor) -> torch.Tensor:
        """Run one new id a lane, int64, (lanes,); return the logits behind them, float32, (lanes, vocabulary).

        The next step overwrites them.
        """
        if self.num_free == 0:
            self._settle(self._seen(), self.step.positions.clone())
        self.step.run(self.model, self.cache, ids)
        self.length += self.step.positions.shape[1]
        self.num_free -= 1
        self.num_steps -= 1
        return self.step.logits

    def keep(self, places: torch.Tensor) -> None:
        """Keep some lanes, int64, in the order of their places."""
        seen, positions = self._seen(), self.step.positions
        if len(positions) > 1:
            seen, positions = seen[places], positions[places]
            cut(self.cache, self.length)
            select_rows(self.cache, places)
        else:
            seen, positions = seen[:, places], positions[:, places]
        self._settle(seen, positions)

    def finish(self) -> None:
        """Let the cache grow again behind all tokens that were run."""
        cut(self.cache, self.length)

    def _settle(self, seen: torch.Tensor, positions: torch.Tensor) -> None:
        """Make room, and a step for it: the one that the cache keeps, if it is of the same shapes and storage."""
        lanes_of_row = positions.shape[1]
        cut(self.cache, self.length)
        room = room_for(self.length, lanes_of_row, self.num_steps)
        reserve(self.cache, room)
        self.num_free = (room - self.length) // lanes_of_row
        kept = self.cache.kept
        if not isinstance(kept, Step) or not kept.fits(self.cache, positions, room):
            kept = self.cache.kept = Step(self.model, self.cache, positions, room)
        self.step = kept
        self.step.begin(seen, positions)
        fix(self.cache, room, self.step.places)

    def _seen(self) -> torch.Tensor:
        return self.step.mask[:, 0, :, : self.length] == 0


class Step:
    """One step of lanes: the tensors that it reads and writes, and its recording.

    It holds no cache, since the cache keeps it: `storage` tells on which its recording works.
    """

    def __init__(
        self, model: VideoLlavaForConditionalGeneration, cache: GrowingCache, positions: torch.Tensor, room: int
    ) -> None:
        num_rows, lanes_of_row = positions.shape
        device, dtype = model.device, model.dtype
        self.storage = _addresses(cache)
        self.ids = torch.zeros_like(positions)
        self.positions = torch.zeros_like(positions)
        self.places = torch.zeros(lanes_of_row, dtype=torch.int64, device=device)
        # What attention adds to its scores: numbers, since from bool each layer would make them anew.
        self.mask = torch.zeros(num_rows, 1, lanes_of_row, room, dtype=dtype, device=device)
        num_ids = model.config.get_text_config().vocab_size
        self.logits = torch.zeros(positions.numel(), num_ids, device=device)
        self.recorder = Recorder(device)

    def fits(self, cache: GrowingCache, positions: torch.Tensor, room: int) -> bool:
        """Whether this step does for lanes of such positions and a room, on what a cache has as storage."""
        has_shapes = self.positions.shape == positions.shape and self.mask.shape[-1] == room
        return has_shapes and self.storage == _addresses(cache)

    def begin(self, seen: torch.Tensor, positions: torch.Tensor) -> None:
        """Set where lanes stand: which tokens they see, bool, (B, n, T), and their next positions, (B, n)."""
        length = seen.shape[-1]
        hidden = torch.finfo(self.mask.dtype).min
        self.mask.fill_(hidden)
        self.mask[:, 0, :, :length].masked_fill_(seen, 0)
        self.positions.copy_(positions)
        self.places.copy_(torch.arange(length, length + len(self.places), device=self.places.device))

    def run(self, model: VideoLlavaForConditionalGeneration, cache: GrowingCache, ids: torch.Tensor) -> None:
        """Run one new id a lane, int64, (lanes,)."""
        self.ids.copy_(ids.view_as(self.ids))
        self.recorder.do(lambda: self._forward(model, cache))

    def _forward(self, model: VideoLlavaForConditionalGeneration, cache: GrowingCache) -> None:
        own = self.places[None, None, :, None].expand(len(self.mask), 1, -1, 1)
        self.mask.scatter_(-1, own, 0)
        output = model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=cache,
            use_cache=True,
        )
        self.logits.copy_(output.logits.flatten(0, 1))
        self.positions += 1
        self.places += len(self.places)


def room_for(length: int, lanes_of_row: int, num_steps: int) -> int:
    """Return how many tokens the room takes in which so many lanes of a row go on behind a length."""
    return rounded_up(length + lanes_of_row * max(1, min(num_steps, STEPS_OF_ROOM)))


def _addresses(cache: GrowingCache) -> list[tuple[int, torch.Size]]:
    return [(room.data_ptr(), room.shape) for room in cache.rooms]
