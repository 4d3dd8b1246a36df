"""Running prompts on a model: what is kept from one answer to the next, and what happens when memory runs out."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.engine.chunks import Chunk, FinishReason, Usage
from videollava_cli.engine.features import FeatureStore
from videollava_cli.engine.prefix import KeptPrefix, Key, Prompt, num_shared
from videollava_cli.errors import GenerationError
from videollava_cli.generation import (
    Decoding,
    Detokenizer,
    Rest,
    Steps,
    bytes_per_token,
    end_of_answer_ids,
    generate_behind,
    is_out_of_memory,
    prefill,
    takes_any_mask,
)
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration

# What the branches of one row may add to its KV cache: as much as a full context of the 7B in fp16 takes.
BRANCHES_BYTES = 2 << 30


class Runner:
    """A model, and what was kept of the last run: a KV cache and the features of recent media.

    `steps` is how its steps are run; None as is best for the device.
    """

    def __init__(
        self, model: "VideoLlavaForConditionalGeneration", tokenizer: "PreTrainedTokenizerBase", checkpoint: Checkpoint
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self.prefix = KeptPrefix()
        self.features = FeatureStore()
        self.steps: Steps | None = None

    @property
    def kept_bytes(self) -> int:
        """Return how much memory is held from one answer to the next, in bytes."""
        return self.prefix.num_bytes + self.features.num_bytes

    def forget(self) -> None:
        """Drop everything that is kept; an answer that is being written keeps its own until it ends."""
        self.prefix.forget()
        self.features.forget()

    def answer(self, prompts: Sequence[Prompt], settings: Settings) -> Generator[tuple[int, Chunk], None, None]:
        """Answer prompts, as many at once as `groups` puts together; yield which prompt, and a piece of its answer.

        Out of memory, everything kept is dropped and, if nothing was yielded of a group yet, its prompts are
        answered once more, one after another.

        Raises:
            GenerationError: If the memory does not suffice even then.
        """
        for group in self.groups(prompts, settings):
            has_begun = False
            try:
                with closing(self._run(group, prompts, settings)) as chunks:
                    for numbered in chunks:
                        has_begun = True
                        yield numbered
                continue
            except GenerationError:
                if has_begun:
                    raise
            # Only here is the first attempt's cache let go of: the error held on to its frames.
            for number in group:
                yield from self._run(range(number, number + 1), prompts, settings)

    def groups(self, prompts: Sequence[Prompt], settings: Settings) -> Iterator[range]:
        """Yield which prompts are run together: one row takes no more than a long prompt does.

        Their rests are no longer together than the context, which bounds attention's mask and weights, and their
        KV cache takes at most `BRANCHES_BYTES` beside the shared prefix. Attention that takes no mask of ours runs
        each by itself.
        """
        room_tokens = BRANCHES_BYTES // bytes_per_token(self.model) if takes_any_mask(self.model) else 0
        shared = _shared_length(prompts) if prompts else 0
        first, num_rest, num_tokens = 0, 0, 0
        for number, prompt in enumerate(prompts):
            rest = len(prompt.ids) - shared
            tokens = rest + self._budget(prompt, settings)
            fits = num_rest + rest <= self.checkpoint.context_length and num_tokens + tokens <= room_tokens
            if number > first and not fits:
                yield range(first, number)
                first, num_rest, num_tokens = number, 0, 0
            num_rest, num_tokens = num_rest + rest, num_tokens + tokens
        if prompts:
            yield range(first, len(prompts))

    def _run(
        self, group: range, prompts: Sequence[Prompt], settings: Settings
    ) -> Generator[tuple[int, Chunk], None, None]:
        """Answer a group at once on what is kept, and keep what was run: of several prompts, what they share."""
        began = time.perf_counter()
        together = [prompts[number] for number in group]
        shared = _shared_length(together)
        shared_keys = together[0].keys[:shared]
        cache = self.prefix.take(shared_keys, self.model.config)
        reused = int(cache.get_seq_length())
        decoding = self._decoding(together, settings)
        cached = [reused] + [shared] * (len(together) - 1)
        ends = decoding.eos_token_ids
        answers = [
            _Answer(Usage(len(prompt.ids), num_cached, budget, 0, 0), self.tokenizer, ends)
            for prompt, num_cached, budget in zip(together, cached, decoding.max_new_tokens, strict=True)
        ]
        run: list[Key] = shared_keys[:reused]
        try:
            if len(together) > 1 and reused < shared:
                prefill(self.model, cache, self._rest(together[0], reused, shared))
                run = shared_keys
            rests = [self._rest(prompt, len(run), len(prompt.ids)) for prompt in together]
            with closing(generate_behind(self.model, cache, rests, decoding, self.steps)) as steps:
                for step in steps:
                    if len(together) == 1:
                        run = [*together[0].keys, *answers[0].tokens]
                    for number, answer, token in zip(group, answers, step, strict=True):
                        for chunk in answer.add(token, time.perf_counter() - began):
                            yield number, chunk
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            run = []
            self.features.forget()
            num_tokens = max(len(answer.tokens) for answer in answers)
            raise GenerationError(
                f"out of memory after {num_tokens} tokens of the answer: try --load-4bit or fewer media"
            ) from error
        finally:
            self.prefix.put(cache, run)

    def _rest(self, prompt: Prompt, start: int, end: int) -> Rest:
        """Return a prompt up to an end, of which a cache holds all before the start."""
        placed = [place for place in prompt.placed if start <= place.start < end]
        return Rest(prompt.ids[:end], self.features.of(placed, self.model, self.checkpoint.pixels))

    def _budget(self, prompt: Prompt, settings: Settings) -> int:
        return min(settings.max_new_tokens, self.checkpoint.context_length - len(prompt.ids))

    def _decoding(self, prompts: Sequence[Prompt], settings: Settings) -> Decoding:
        return Decoding(
            max_new_tokens=tuple(self._budget(prompt, settings) for prompt in prompts),
            eos_token_ids=end_of_answer_ids(self.model),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            seed=settings.seed,
        )


class _Answer:
    """One answer on its way: token ids to text, why it ended, what it took."""

    def __init__(self, expected: Usage, tokenizer: "PreTrainedTokenizerBase", eos_token_ids: frozenset[int]) -> None:
        self.expected = expected  # it takes at most so many new tokens
        self.eos_token_ids = eos_token_ids
        self.detokenizer = Detokenizer(tokenizer)
        self.first_seconds: float | None = None

    @property
    def tokens(self) -> list[int]:
        """The ids of the answer so far, without one that ended it."""
        return self.detokenizer.ids

    def add(self, token: int | None, seconds: float) -> Iterator[Chunk]:
        """Add a token id that came after so many seconds; yield its text, and the last chunk if it ends the answer."""
        if token is None:
            return
        if self.first_seconds is None:
            self.first_seconds = seconds
        if token in self.eos_token_ids:
            yield self._last("stop", seconds)
            return
        if text := self.detokenizer.add(token):
            yield Chunk(text)
        if len(self.tokens) >= self.expected.new_tokens:
            yield self._last("length", seconds)

    def _last(self, reason: FinishReason, seconds: float) -> Chunk:
        assert self.first_seconds is not None
        usage = replace(
            self.expected,
            new_tokens=len(self.tokens),
            prefill_seconds=self.first_seconds,
            generate_seconds=seconds - self.first_seconds,
        )
        return Chunk(self.detokenizer.finish(), reason, usage)


def _shared_length(prompts: Sequence[Prompt]) -> int:
    """Return how many first tokens all prompts share, leaving each at least its last one to run."""
    return min(num_shared([prompt.keys for prompt in prompts]), min(len(prompt.ids) for prompt in prompts) - 1)
