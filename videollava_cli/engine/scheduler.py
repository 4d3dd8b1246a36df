"""Which requests run together: shared prefixes, the KV budget, and what happens when memory runs out."""

import time
from collections import deque
from collections.abc import Generator, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from videollava_cli.engine.checkpoint import TEXT_TOKENS
from videollava_cli.engine.generate import STEPS_AHEAD, DecodeBatch, PrefilledRow
from videollava_cli.engine.model_access import bytes_per_token, end_of_answer_ids, is_out_of_memory, takes_any_mask
from videollava_cli.engine.request import Chunk, Request, Sequence, num_shared_keys
from videollava_cli.errors import MemoryFullError, UsageError

if TYPE_CHECKING:
    from videollava_cli.engine import Engine

# What the sequences of one row may add to its KV cache: as much as a full context of the 7B in fp16 takes.
SUFFIX_BYTES = 2 << 30


class Scheduler:
    """Run requests: admit them, prefill them, decode them together, hand out their chunks.

    A request joins while others decode. Requests are taken in waves, when half of the seats are free: a join costs a
    new capture on a CUDA card, and neighbours about the same media can share a row. A source that says None, for
    "nothing waits now", is asked again before each step instead.
    """

    def __init__(self, engine: "Engine", requests: Iterable[Request | None], max_num_seqs: int | None) -> None:
        self.engine = engine
        self.source = enumerate(requests)
        self.max_num_seqs = max_num_seqs and min(max_num_seqs, engine.seq_limit or max_num_seqs)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # admitted, in the order of the requests
        self.failed: list[tuple[int, Request, Chunk]] = []
        self.batch = DecodeBatch(engine.runner)
        self.end_ids = end_of_answer_ids(engine.model)
        self._is_exhausted = False
        self._is_polled = False

    def run(self) -> Generator[tuple[Request, Chunk], None, None]:
        """Yield the chunks of all answers as their tokens come, those of one step in the order of the requests."""
        tokens: list[tuple[Sequence, int]] | None
        try:
            while not self._is_exhausted or self.waiting or self.running:
                groups = self._admit()
                try:
                    self._prefill(groups)
                    tokens = self.batch.next_tokens() if self.running else []
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    tokens = None
                # Retry outside the except block: the traceback keeps the failed attempt's tensors alive.
                yield from self._recover() if tokens is None else self._chunks(tokens)
        finally:
            self._release()

    def _admit(self) -> list[list[Sequence]]:
        """Take the requests that may run now; neighbours that share a prefix with all their media make a row."""
        groups: list[list[Sequence]] = []
        if self._is_exhausted and not self.waiting:
            return groups
        num_taken = self.batch.num_rows if self.max_num_seqs is None else len(self.running)
        if self.running and not self._is_polled and 2 * num_taken > self._limit:
            return groups
        while self.max_num_seqs is None or len(self.running) < self._limit:
            sequence = self._next_waiting()
            if sequence is None:
                break
            if groups and self._fits_row([*groups[-1], sequence]):
                groups[-1].append(sequence)
            elif not (groups or self.running) or self._fits_batch(groups, sequence):
                sequence.share_row(sequence)
                groups.append([sequence])
            else:
                break
            self.running.append(self.waiting.popleft())
        return groups

    def _next_waiting(self) -> Sequence | None:
        """Return the first request that waits, taking one from the source if there is none."""
        while not self.waiting and not self._is_exhausted:
            try:
                number, request = next(self.source)
            except StopIteration:
                self._is_exhausted = True
                break
            self._is_polled = request is None
            if request is None:
                break
            self._enqueue(number, request)
        return self.waiting[0] if self.waiting else None

    def _enqueue(self, number: int, request: Request) -> None:
        encoder = self.engine.encoder
        try:
            prompt = encoder.encode(request.conversation)
        except UsageError as error:
            chunk = Chunk("", "error", prompt=encoder.encoded(request.conversation).text, error=error)
            self.failed.append((number, request, chunk))
            return
        sequence = Sequence(number, request, prompt, encoder.context_length)
        sequence.place_media(encoder.media_tokens)
        self.waiting.append(sequence)

    @cached_property
    def _limit(self) -> int:
        return self.max_num_seqs or self.engine.max_num_seqs

    @cached_property
    def _kv_budget(self) -> int:
        """How many slots all rows may take in the end: those of as many questions about a clip as there are seats."""
        engine = self.engine
        num_tokens = max(engine.encoder.media_tokens.values()) + TEXT_TOKENS + engine.settings.max_new_tokens
        return self._limit * min(num_tokens, engine.encoder.context_length)

    def _fits_row(self, group: list[Sequence]) -> bool:
        """Return whether a group's last sequence may share the row: a prefix with all media, and a bounded mask."""
        model = self.engine.model
        first, last = group[0], group[-1]
        end_of_media = max((placed.end for placed in (*first.media, *last.media)), default=0)
        last.share_row(first)
        if not takes_any_mask(model) or last.num_shared < end_of_media:
            return False
        num_suffix = _num_prompt_slots(group) - num_shared_keys(group)
        num_added = num_suffix + sum(each.num_left for each in group)
        fits_context = num_suffix <= self.engine.encoder.context_length
        return fits_context and num_added <= SUFFIX_BYTES // bytes_per_token(model)

    def _fits_batch(self, groups: list[list[Sequence]], sequence: Sequence) -> bool:
        """Return whether one more row fits the KV budget; each row takes as many slots as the longest."""
        num_rows = self.batch.num_rows + len(groups) + 1
        rows = [*groups, [sequence], *([each] for each in self.running)]
        longest = max(_num_prompt_slots(row) + sum(each.num_left for each in row) for row in rows)
        return num_rows <= self._limit and num_rows * longest <= self._kv_budget

    def _prefill(self, groups: list[list[Sequence]]) -> None:
        """Prefill rows, one by one and without padding, and let them join the batch.

        The only row of a batch lends it its KV cache. Others are copied in, and their caches are free for the next.
        """
        if not groups:
            return
        began, engine = time.perf_counter(), self.engine
        is_only = len(groups) == 1 and not self.batch.sequences
        if self.batch.adopted is not None:
            self._release_adopted(self.batch.disown())
        if not is_only:
            num_tokens = max(self._num_reserved(group) for group in groups)
            self.batch.cache.reserve(self.batch.num_rows + len(groups), num_tokens)
        for group in groups:
            keys = group[0].keys[: num_shared_keys(group)]
            prefix = engine.prefix_cache.acquire(keys)
            for number, sequence in enumerate(group):
                sequence.began = began
                sequence.num_cached = len(keys) if number else len(prefix.keys)
            if is_only:
                prefix.cache.reserve(1, self._num_reserved(group))
            try:
                media = [placed for placed in group[0].media if placed.start >= len(prefix.keys)]
                row = engine.runner.prefill(prefix, group, engine.encoder_cache.get(media))
                self.batch.join(row, adopt=is_only)
            finally:
                if self.batch.adopted is None:
                    engine.prefix_cache.release(prefix)

    def _num_reserved(self, group: list[Sequence]) -> int:
        """Return how many slots to reserve for a row, so that static decode starts without moving it."""
        num_steps = min(STEPS_AHEAD, max(each.num_left for each in group)) if self.engine.runner.is_static else 1
        return _num_prompt_slots(group) + len(group) * num_steps

    def _chunks(self, tokens: list[tuple[Sequence, int]]) -> list[tuple[Request, Chunk]]:
        """Turn the tokens of a step into chunks; sequences that end leave."""
        chunks, ended = self.failed, []
        self.failed = []
        for sequence, token in tokens:
            engine = self.engine
            chunk = sequence.add(token, engine.tokenizer, end_ids=self.end_ids, compute_dtype=engine.compute_dtype)
            chunks.append((sequence.number, sequence.request, chunk))
            if chunk.finish_reason:
                ended.append(sequence)
        if ended:
            self.batch.leave(ended)
            self.running = [sequence for sequence in self.running if sequence not in ended]
            if not self.running:
                self._release()
        return [(request, chunk) for _, request, chunk in sorted(chunks, key=lambda each: each[0])]

    def _recover(self) -> list[tuple[Request, Chunk]]:
        """After an out-of-memory error drop the caches, halve the number of sequences for good, and try again.

        Sequences go back to the queue with their tokens. One that ran alone gets a second attempt if it has no tokens
        yet; then it fails.
        """
        preempted, self.running = self.running, []
        self.batch = DecodeBatch(self.engine.runner)
        self.engine.clear_cache()
        if self.engine.model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(preempted) > 1:
            self.max_num_seqs = self._limit = len(preempted) // 2
            self.engine.seq_limit = min(self.engine.seq_limit or self._limit, self._limit)
        first = preempted[0]
        if len(preempted) == 1 and (first.token_ids or first.is_retried):
            error = MemoryFullError(
                f"out of memory after {len(first.token_ids)} tokens of the answer: try --load-4bit or fewer media"
            )
            return [(first.request, Chunk("", "error", prompt=first.prompt.text, error=error))]
        first.is_retried = len(preempted) == 1
        self.waiting.extendleft(reversed(preempted))
        return []

    def _release(self) -> None:
        """End the batch; the KV cache that it adopted goes back to the prefix cache."""
        if self.batch.adopted is not None:
            self._release_adopted(self.batch.adopted)
        self.batch = DecodeBatch(self.engine.runner)

    def _release_adopted(self, row: PrefilledRow) -> None:
        first = row.sequences[0]
        if len(row.sequences) == 1 and first.token_ids:  # of several sequences, only what they share is kept
            row.prefix.keys = [*first.keys, *first.token_ids[:-1]]  # the last one may not have been run
        self.engine.prefix_cache.release(row.prefix)


def _num_prompt_slots(group: list[Sequence]) -> int:
    """Return how many slots of the KV cache the prompts of a row take."""
    shared = num_shared_keys(group) if len(group) > 1 else 0
    return shared + sum(each.num_tokens - shared for each in group)
