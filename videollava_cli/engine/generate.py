"""The core of generating: prefill a row, run decode steps of a batch of rows, sample.

A batch has B rows x n sequences. The sequences of a row share a prefix, whose keys and values are in the row once.
Behind it stand their suffixes, and each decode step adds one slot a sequence. A mask says who sees which slot, and
positions count within a sequence. Sequences a and b of one row, a with a suffix of two tokens, b with one:

    #              prefix      a1 a2  b1     a3 b2      (slots of the KV cache; then those of a decode step)
    #   a2 sees      x x x     x  x   .
    #   b1 sees      x x x     .  .   x
    #   a3 sees      x x x     x  x   .      x  .
    #   b2 sees      x x x     .  .   x      .  x

All rows write at the same slots. Shorter rows have holes, a row with fewer sequences has dummies: nobody sees either.
So a row joins between two decode steps by being copied in, and a sequence leaves by being left out.
"""

from collections.abc import Sequence as SequenceOf
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper, VideoLlavaForConditionalGeneration

from videollava_cli.engine.cuda_graph import Capture, GraphRunner, copy_to_host
from videollava_cli.engine.kv_cache import CachedPrefix, KVCache, rounded_up
from videollava_cli.engine.model_access import SingleTokenStep, can_capture, embed, takes_any_mask
from videollava_cli.engine.request import Sequence, num_shared_keys
from videollava_cli.machine import has_bfloat16_tiles

# Static decode reserves slots for so many steps. Attention reads unused ones: of the 7B in fp16 256 are 0.13 GB a step
# and sequence, beside the 13.5 GB of weights; a new capture takes about as long as ten steps, 4 % of 256.
STEPS_AHEAD = 256
# Sequences that have ended run along in static decode until no more than this share is open: leaving one out means a
# new capture. So at most half of the cache is read in vain, and N sequences are captured at most log2(N) times more.
MIN_OPEN_SHARE = 0.5
MAX_PENALTY = 1e20  # and its inverse is the smallest: beyond, logits overflow float32, and answers would be the same


@dataclass(frozen=True, slots=True, eq=False)
class PrefilledRow:
    """A row that may join a batch: n sequences in a KV cache of one row, of T slots."""

    prefix: CachedPrefix
    sequences: SequenceOf[Sequence]
    seen: torch.Tensor  # bool, (n, T)
    positions: torch.Tensor  # of the next token of each, int64, (n,)
    logits: torch.Tensor  # float32, (n, vocab)


class ModelRunner:
    """A model and how its decode steps run: static on one CUDA card, dynamic elsewhere, or as `static_decode` says.

    Static steps keep one shape, and are captured by `capture`; by default as CUDA graphs, on a CPU not at all.
    """

    def __init__(
        self,
        model: VideoLlavaForConditionalGeneration,
        *,
        static_decode: bool | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.model = model
        self.is_static = can_capture(model) if static_decode is None else static_decode
        self.capture = capture
        is_bfloat16_on_cpu = model.device.type == "cpu" and model.dtype == torch.bfloat16
        self.has_own_products = is_bfloat16_on_cpu and not has_bfloat16_tiles()
        self.vocabulary_size = int(model.config.get_text_config().vocab_size)
        self._last_step: DecodeStep | None = None

    @torch.inference_mode()
    def prefill(
        self, prefix: CachedPrefix, sequences: SequenceOf[Sequence], features: SequenceOf[torch.Tensor]
    ) -> PrefilledRow:
        """Run the prompts of one row behind what is cached; `features` are of the media that are not.

        The prefix is causal and unmasked, so attention keeps its fast path; suffixes of several sequences follow it.
        """
        for sequence in sequences:
            self._start_sampling(sequence)
        first, num_cached = sequences[0], len(prefix.keys)
        if len(sequences) > 1:
            num_shared = num_shared_keys(sequences)
            if num_cached < num_shared:
                self._run_causal(prefix.cache, first.ids[num_cached:num_shared], features)
                prefix.keys = first.keys[:num_shared]
            return self._run_suffixes(prefix, sequences)
        logits = self._run_causal(prefix.cache, first.ids[num_cached:], features)  # (1, vocab)
        prefix.keys = [*first.keys, *first.token_ids]
        positions = torch.tensor([len(prefix.keys)], device=self.model.device)  # (1,)
        seen = torch.ones(1, len(prefix.keys), dtype=torch.bool, device=self.model.device)  # (1, T)
        return PrefilledRow(prefix, sequences, seen, positions, logits)

    def _run_causal(
        self, cache: KVCache, token_ids: SequenceOf[int], features: SequenceOf[torch.Tensor]
    ) -> torch.Tensor:
        embedded = embed(self.model, token_ids, features)  # (T, hidden)
        start = int(cache.get_seq_length())
        output = self.model(
            inputs_embeds=embedded[None],  # (1, T, hidden)
            position_ids=torch.arange(start, start + len(embedded), device=embedded.device)[None],  # (1, T)
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()  # (1, vocab)
        return logits

    def _run_suffixes(self, prefix: CachedPrefix, sequences: SequenceOf[Sequence]) -> PrefilledRow:
        """Run the suffixes of a row's sequences, S tokens in all, in one pass behind their prefix of P tokens."""
        device, num_shared = self.model.device, len(prefix.keys)
        suffixes = [sequence.ids[num_shared:] for sequence in sequences]
        counts = torch.tensor([len(suffix) for suffix in suffixes], device=device)  # (n,)
        owners = torch.arange(len(suffixes), device=device).repeat_interleave(counts)  # (S,)
        prefix_seen = torch.ones(len(owners), num_shared, dtype=torch.bool, device=device)  # (S, P)
        sees = torch.cat([prefix_seen, (owners == owners[:, None]).tril()], dim=1)  # (S, P + S)
        offsets = torch.cat([torch.arange(len(suffix), device=device) for suffix in suffixes])  # (S,)
        # What attention adds to its scores: 0 where a slot is seen, else the lowest number.
        mask = torch.zeros_like(sees, dtype=self.model.dtype).masked_fill_(~sees, torch.finfo(self.model.dtype).min)
        output = self.model(
            inputs_embeds=embed(self.model, [token for suffix in suffixes for token in suffix], ())[None],
            attention_mask=mask[None, None],  # (1, 1, S, P + S)
            position_ids=(num_shared + offsets)[None],  # (1, S)
            past_key_values=prefix.cache,
            use_cache=True,
            logits_to_keep=counts.cumsum(0) - 1,
        )
        is_theirs = owners == torch.arange(len(suffixes), device=device)[:, None]  # (n, S)
        seen = torch.cat([prefix_seen[: len(suffixes)], is_theirs], dim=1)  # (n, P + S)
        return PrefilledRow(prefix, sequences, seen, num_shared + counts, output.logits[0].float())

    def _start_sampling(self, sequence: Sequence) -> None:
        settings, device = sequence.settings, self.model.device
        if settings.repetition_penalty != 1.0:
            sequence.occurred = torch.zeros(self.vocabulary_size, dtype=torch.bool, device=device)  # (vocab,)
            sequence.occurred[torch.tensor(sequence.ids, device=device)] = True
        if not settings.is_greedy:
            sequence.generator = torch.Generator(device).manual_seed(settings.seed)
            for _ in sequence.token_ids:  # of a preempted sequence, which goes on drawing where it was
                torch.empty(self.vocabulary_size, device=device).exponential_(generator=sequence.generator)

    def step_for(self, cache: KVCache, shape: torch.Size, capacity: int) -> "DecodeStep":
        """Return a decode step of B rows x n sequences; a static one that was captured on this storage is reused."""
        step = self._last_step
        if step is None or (step.ids.shape, step.capacity, step.addresses) != (shape, capacity, cache.addresses):
            step = DecodeStep(self, cache, shape, capacity)
            self._last_step = step if self.is_static else None
        return step


class DecodeStep:
    """One decode step: the tensors that it reads and writes, and the work on them.

    Whatever changes from step to step is in tensors on the device, and the step itself moves it on: so a CUDA graph of
    it can be replayed. It holds no cache; `addresses` say on whose storage it was captured.
    """

    def __init__(self, runner: ModelRunner, cache: KVCache, shape: torch.Size, capacity: int) -> None:
        self.model = model = runner.model
        self.is_static = runner.is_static
        self.capacity = capacity
        self.addresses = cache.addresses
        self.ids = torch.zeros(shape, dtype=torch.int64, device=model.device)  # (B, n)
        self.positions = torch.zeros_like(self.ids)  # (B, n)
        self.cache_position = torch.zeros_like(self.ids[0])  # (n,)
        # What attention adds to its scores: numbers, since from bool each layer would make them anew.
        self.mask = torch.zeros(shape[0], 1, shape[1], capacity, dtype=model.dtype, device=model.device)
        self.logits = torch.zeros(*shape, runner.vocabulary_size if self.is_static else 0, device=model.device)
        self.graph = GraphRunner(model.device, runner.capture)
        self.is_unmasked = False
        self.is_single_token = runner.has_own_products and shape[1] == 1

    def start(self, seen: torch.Tensor, positions: torch.Tensor) -> None:
        """Set who sees which slot, bool, (B, n, T), and the next positions, int64, (B, n)."""
        length, num_columns = seen.shape[-1], seen.shape[1]
        self.mask.fill_(torch.finfo(self.mask.dtype).min)
        self.mask[:, 0, :, :length].masked_fill_(seen, 0)
        self.positions.copy_(positions)
        self.cache_position.copy_(torch.arange(length, length + num_columns, device=seen.device))
        self.is_unmasked = not self.is_static and num_columns == 1 and bool(seen.all())

    def run(self, cache: KVCache, token_ids: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Run one token of each sequence, int64, (S,), in its cell, (S,); return logits, float32, (B * n, vocab)."""
        self.ids.view(-1).index_copy_(0, cells, token_ids)
        if self.is_static:
            self.graph.run(lambda: self._forward(cache, self.mask))
        else:
            length = int(cache.get_seq_length()) + self.ids.shape[1]
            with SingleTokenStep() if self.is_single_token else nullcontext():
                self._forward(cache, self.mask[..., :length])
        return self.logits.flatten(0, 1)

    def _forward(self, cache: KVCache, mask: torch.Tensor) -> None:
        own = self.cache_position[None, None, :, None].expand(len(self.mask), 1, -1, 1)  # (B, 1, n, 1)
        self.mask.scatter_(-1, own, 0)
        if not takes_any_mask(self.model):
            mask = (mask[:, 0, 0] == 0).long()  # (B, T): padding, of one sequence a row
        output = self.model(
            input_ids=self.ids,
            attention_mask=None if self.is_unmasked else mask,  # (B, 1, n, T)
            position_ids=self.positions,
            past_key_values=cache,
            use_cache=True,
        )
        if self.is_static:
            self.logits.copy_(output.logits)
        else:
            self.logits = output.logits.float()  # (B, n, vocab)
        self.positions += 1
        self.cache_position += self.ids.shape[1]


class DecodeBatch:
    """Sequences that decode together; rows join and sequences leave between two steps."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.sequences: list[Sequence] = []  # the S open ones
        self.adopted: PrefilledRow | None = None  # the only row, whose KV cache is that of the batch
        self.cache = KVCache(runner.model.config)
        self.num_rows = 0
        self._cells: list[int] = []  # row * n + column of each sequence
        self._logits: torch.Tensor | None = None  # (S, vocab), from which the next tokens are sampled
        self._sampled: torch.Tensor | None = None  # (S,), to be run before there are such logits
        self._step: DecodeStep | None = None
        self._num_run = 0  # sequences, with those that have ended and run along
        device = runner.model.device
        self._seen = torch.zeros(0, 0, 0, dtype=torch.bool, device=device)  # (B, n, T), out of date during steps
        self._positions = torch.zeros(0, 0, dtype=torch.int64, device=device)  # (B, n), likewise

    @torch.inference_mode()
    def next_tokens(self) -> list[tuple[Sequence, int]]:
        """Sample the next token of each sequence, after running the last ones.

        A captured step is started before the host knows the tokens that it runs: the host detokenizes while the device
        is at work. The price is one step too many.
        """
        self._run_sampled()
        assert self._logits is not None
        self._sampled, self._logits = sample(self._logits, self.sequences), None  # (S,)
        read = copy_to_host(self._sampled)
        is_last = all(sequence.num_left <= 1 for sequence in self.sequences)
        if not is_last and self._step is not None and self._step.graph.is_captured and self._has_free_slots:
            self._run_sampled()
        return list(zip(self.sequences, read(), strict=True))

    @torch.inference_mode()
    def join(self, row: PrefilledRow, *, adopt: bool = False) -> None:
        """Add a row: copied, or with its KV cache for the whole batch if it is the only one."""
        self._run_sampled()
        self._leave_step()
        if adopt:
            self.adopted, self.cache = row, row.prefix.cache
        else:
            self.cache.join(row.prefix.cache)
        num_rows, num_columns, num_slots = self._seen.shape
        num_new, length = row.seen.shape
        width = max(num_columns, num_new)
        seen = self._seen.new_zeros(num_rows + 1, width, max(num_slots, length))  # (B + 1, n, T)
        seen[:num_rows, :num_columns, :num_slots] = self._seen
        seen[num_rows, :num_new, :length] = row.seen
        positions = self._positions.new_zeros(num_rows + 1, width)  # (B + 1, n)
        positions[:num_rows, :num_columns] = self._positions
        positions[num_rows, :num_new] = row.positions
        cells = [cell // num_columns * width + cell % num_columns for cell in self._cells]
        self._set(seen, positions, [*cells, *range(num_rows * width, num_rows * width + num_new)])
        self.sequences = [*self.sequences, *row.sequences]
        self._logits = row.logits if self._logits is None else torch.cat([self._logits, row.logits])

    @torch.inference_mode()
    def leave(self, ended: SequenceOf[Sequence]) -> None:
        """Leave out sequences; their slots are free again."""
        kept = [number for number, sequence in enumerate(self.sequences) if sequence not in ended]
        self.sequences = [self.sequences[number] for number in kept]
        self._cells = [self._cells[number] for number in kept]
        index = torch.tensor(kept, dtype=torch.int64, device=self._seen.device)
        self._logits = None if self._logits is None else self._logits[index]
        self._sampled = None if self._sampled is None else self._sampled[index]
        self._cell_index = torch.tensor(self._cells, dtype=torch.int64, device=self._seen.device)
        if kept and (not self.runner.is_static or len(kept) <= MIN_OPEN_SHARE * self._num_run):
            self._repack()

    def disown(self) -> PrefilledRow:
        """Return the adopted row and go on with a copy of its KV cache."""
        row, self.adopted = self.adopted, None
        assert row is not None
        self._leave_step()
        self.cache = KVCache(self.runner.model.config)
        self.cache.join(row.prefix.cache)
        return row

    @property
    def _has_free_slots(self) -> bool:
        return self._step is not None and self._num_slots + self._seen.shape[1] <= self._step.capacity

    def _run_sampled(self) -> None:
        if self._sampled is None:
            return
        if not self._has_free_slots:
            self._begin_step()
        assert self._step is not None
        logits = self._step.run(self.cache, self._sampled, self._cell_index)  # (B * n, vocab)
        self._num_slots += self._seen.shape[1]
        self._logits = logits if len(logits) == len(self._cells) else logits[self._cell_index]
        self._sampled = None

    def _begin_step(self) -> None:
        """Make a step with free slots; slots that nobody sees any more are freed where that saves capacity."""
        self._leave_step()
        num_rows, num_columns, length = self._seen.shape
        num_steps = max(sequence.num_left for sequence in self.sequences) if self.runner.is_static else 1
        num_new = num_columns * max(1, min(num_steps, STEPS_AHEAD))
        is_live = self._seen.any(1)  # (B, T)
        num_live = int(is_live.sum(1).max())
        if rounded_up(num_live + num_new) < rounded_up(length + num_new):
            slots = is_live.int().argsort(dim=1, descending=True, stable=True)[:, :num_live]  # (B, T')
            self.cache.gather(slots)
            self._seen = self._seen.gather(2, slots[:, None].expand(-1, num_columns, -1))  # (B, n, T')
            self._num_slots = length = num_live
        capacity = rounded_up(length + num_new)
        self.cache.reserve(num_rows, capacity)
        self._step = self.runner.step_for(self.cache, self._positions.shape, capacity)
        self._step.start(self._seen, self._positions)
        if self.runner.is_static:
            self.cache.make_static(capacity, self._step.cache_position)

    def _leave_step(self) -> None:
        """Take back from the step what it moved on: the mask and the positions."""
        if self._step is not None:
            self._seen = self._step.mask[:, 0, :, : self._num_slots] == 0  # (B, n, T)
            self._positions = self._step.positions.clone()  # (B, n)
            self.cache.crop(self._num_slots)
            self._step = None

    def _repack(self) -> None:
        """Close the gaps that sequences left: rows without any go, columns move to the left."""
        self._leave_step()
        rows: dict[int, list[int]] = {}
        for cell in self._cells:
            rows.setdefault(cell // self._seen.shape[1], []).append(cell)
        width = max(map(len, rows.values()))
        grid = [[*cells, *cells[:1] * (width - len(cells))] for cells in rows.values()]  # a dummy copies the first one
        index = torch.tensor(grid, device=self._seen.device)  # (B, n)
        self.cache.select(list(rows))
        cells = [row * width + column for row, own in enumerate(rows.values()) for column in range(len(own))]
        self._set(self._seen.flatten(0, 1)[index], self._positions.flatten()[index], cells)

    def _set(self, seen: torch.Tensor, positions: torch.Tensor, cells: list[int]) -> None:
        self._seen, self._positions, self._cells = seen, positions, cells
        self._cell_index = torch.tensor(cells, dtype=torch.int64, device=seen.device)  # (S,)
        self.num_rows, _, self._num_slots = seen.shape
        self._num_run = len(cells)


def sample(logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> torch.Tensor:
    """Sample the next token of each sequence, int64, (S,), from logits, float32, (S, vocabulary).

    Each sequence draws from a generator of its own, so its tokens do not depend on the others. Scores are processed as
    by `model.generate`. Nothing here waits for the device.
    """
    settings = sequences[0].settings
    if any(sequence.settings != settings for sequence in sequences):
        return torch.cat([sample(row[None], [one]) for row, one in zip(logits, sequences, strict=True)])
    occurred = [sequence.occurred for sequence in sequences if sequence.occurred is not None]
    if occurred:
        penalty = min(max(settings.repetition_penalty, 1 / MAX_PENALTY), MAX_PENALTY)
        penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
        logits = torch.where(torch.stack(occurred), penalized, logits)  # (S, vocab)
    if not settings.is_greedy:
        scores = logits / settings.temperature  # (S, vocab)
        if settings.top_k is not None:
            scores = TopKLogitsWarper(settings.top_k)(None, scores)
        if settings.top_p is not None:
            scores = TopPLogitsWarper(settings.top_p)(None, scores)
        shares = scores.softmax(-1)  # (S, vocab)
        # How `torch.multinomial` draws one token, to the last bit; itself it waits for the device to check the shares.
        waits = torch.empty_like(shares)  # (S, vocab)
        for row, sequence in zip(waits, sequences, strict=True):
            row.exponential_(generator=sequence.generator)
        logits = shares / waits
    chosen = logits.argmax(-1)  # (S,)
    for number, own in enumerate(occurred):
        own.index_fill_(0, chosen[number : number + 1], True)
    return chosen
