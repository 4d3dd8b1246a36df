"""Static decode, as a CUDA card captures and replays it: on a CPU the same tokens as of dynamic decode."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from conversations import (
    about,
    answer,
    answers_together,
    collected_ids,
    noise_clip,
    noise_image,
    reference_answer,
    requests_about,
    sequence_about,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from videollava_cli.engine import Request
from videollava_cli.engine.cuda_graph import GraphRunner
from videollava_cli.engine.generate import ModelRunner, sample
from videollava_cli.engine.kv_cache import BLOCK_TOKENS, nbytes

CPU = torch.device("cpu")
BUDGETS = (3, 12, 7, 12, 1, 9)  # of six answers, so that they end at different steps
QUESTIONS = ("What moves?", "Where to, and why?", "größer als 世界 🎬?", "A", "What moves?", "What?")
OPTIONS = (
    {},
    {"repetition_penalty": 1.5},
    {"temperature": 0.9, "top_p": 0.9, "top_k": 30, "seed": 5},
    {"temperature": 2.0, "repetition_penalty": 1.2, "seed": 1},
)


@pytest.fixture(params=["sdpa", "eager"])
def attention(request, mini):
    """Answer with each attention that takes our masks."""
    mini.model.set_attn_implementation(request.param)
    yield request.param
    mini.model.set_attn_implementation("sdpa")


@pytest.fixture
def dynamic(mini):
    return replace(mini)


@pytest.fixture
def static(mini):
    """Hand out an engine with static decode."""
    return replace(mini, static_decode=True)


@pytest.fixture(scope="module")
def media(mini):
    return [noise_clip(mini, 0), noise_image(mini, 1)]


class Tape(TorchDispatchMode):
    """What a CUDA graph is on a card: the operations on tensors that some work was, done again on the same tensors.

    Other than a card's, its capture runs the work; so its first replay has nothing to do.
    """

    def __init__(self):
        super().__init__()
        self.operations = []
        self.num_replays = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        """Do the operations again, in order."""
        self.num_replays += 1
        if self.num_replays == 1:
            return
        made = {}

        def now(value):
            return made.get(id(value), value)

        for function, args, kwargs, result in self.operations:
            again = function(*tree_map(now, args), **tree_map(now, kwargs))
            made |= {id(old): new for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True)}


@pytest.fixture
def tapes(static):
    """Capture steps on tapes, each of which is replayed without a line of Python of the model."""
    tapes = []

    def capture(work, device):
        with Tape() as tape:
            work()
        tapes.append(tape)
        return tape

    static.runner.capture = capture
    return tapes


@contextmanager
def forward_shapes(model):
    """Note the shape of the ids, (rows, tokens), that each forward pass is given."""
    shapes = []

    def note(module, args, kwargs):
        shapes.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    handle = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


def about_one(engine, media, budgets=BUDGETS, **options):
    """Return requests about the same media, which share a row, with budgets of their own."""
    conversations = [about(media, question) for question in QUESTIONS[: len(budgets)]]
    requests = requests_about(engine, conversations, media, **options)
    return [
        Request(each.conversation, each.media, replace(each.settings, max_new_tokens=budget))
        for each, budget in zip(requests, budgets, strict=True)
    ]


def about_several(engine, budgets=BUDGETS, **options):
    """Return requests about media of their own, each of which has a row, with budgets of their own."""
    return [
        about_one(engine, [noise_clip(engine, number)], (budget,), **options)[0]
        for number, budget in enumerate(budgets)
    ]


def mixed(engine, media, **options):
    """Return requests of which the first six share a row, and the next two another one."""
    other = [noise_clip(engine, 9)]
    return [*about_one(engine, media, **options), *about_one(engine, other, (5, 20), **options)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["one row", "rows", "rows of several"])
def test_static_decode_gives_the_tokens_of_dynamic_decode(static, dynamic, media, attention, kind, options):
    def requests(engine):
        if kind == "rows":
            return about_several(engine, **options)
        return about_one(engine, media, **options) if kind == "one row" else mixed(engine, media, **options)

    expected = collected_ids(dynamic, requests(dynamic))

    assert collected_ids(static, requests(static)) == expected
    assert [len(ids) for ids in expected[:6]] == list(BUDGETS)


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_static_decode_gives_the_tokens_of_generate(static, media, attention, options):
    conversation = about(media, "What moves?")

    text, _ = answer(static, conversation, media, max_new_tokens=20, **options)

    assert text == reference_answer(static, conversation, media, max_new_tokens=20, **options)


def test_rows_of_a_batch_get_the_tokens_of_generate(static):
    requests = about_several(static)

    texts = dict.fromkeys(requests, "")
    for request, chunk in static.answer(requests):
        texts[request] += chunk.text

    for request, budget in zip(requests, BUDGETS, strict=True):
        assert texts[request] == reference_answer(static, request.conversation, request.media, max_new_tokens=budget)


def test_sequences_that_ended_run_along_until_half_have_ended(static):
    with forward_shapes(static.model) as shapes:
        list(static.answer(about_several(static, (2, 4, 6, 8))))
        num_before = len(shapes)
        list(static.answer(about_one(static, [noise_clip(static, 3)], (2, 4, 6, 8))))

    numbers = [4, 4, 4, 2, 2, 1, 1]
    assert shapes[num_before - 7 : num_before] == [(number, 1) for number in numbers]
    assert shapes[-7:] == [(1, number) for number in numbers]


@pytest.mark.parametrize("kind", ["one row", "rows"])
def test_capacity_that_runs_out_grows_and_what_nobody_sees_is_freed(static, dynamic, media, kind):
    budgets = (BLOCK_TOKENS + 20, 9, 260, 3)
    expected = []
    for engine in (dynamic, static):
        requests = about_one(engine, media, budgets) if kind == "one row" else about_several(engine, budgets)
        expected.append(collected_ids(engine, requests))

    assert expected[0] == expected[1]
    assert [len(ids) for ids in expected[0]] == list(budgets)


def test_numbers_left_in_unused_capacity_do_not_matter(static, dynamic, media):
    conversation = about(media, "What moves?")
    expected, _ = answer(dynamic, conversation, media, max_new_tokens=20)
    answer(static, conversation, media)
    prefix = static.prefix_cache.acquire(sequence_about(static, conversation, media).keys[:-1])
    with torch.inference_mode():
        for storage in prefix.cache.storage:
            storage[:, :, len(prefix.keys) :] = torch.nan
    static.prefix_cache.release(prefix)

    text, usage = answer(static, conversation, media, max_new_tokens=20)

    assert (text, usage.cached_tokens) == (expected, usage.prompt_tokens - 1)


def test_steps_are_run_ahead_of_their_tokens_once_they_are_captured(static, tapes, media):
    requests = about_one(static, media, (6,))

    with forward_shapes(static.model) as shapes:
        num_run = [len(shapes) for _ in static.answer(requests)]

    # The prompt; one step to warm up; the third one is captured, and from then on replayed.
    assert num_run == [1, 2, 3, 3, 3, 3]
    assert [tape.num_replays for tape in tapes] == [4]  # behind the last token there is none to run


def test_capture_that_fails_leaves_the_answer_as_it_is(static, dynamic, media):
    def refuse(work, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    static.runner.capture = refuse
    with forward_shapes(static.model) as shapes:
        ids = collected_ids(static, about_one(static, media, (6,)))

    assert len(shapes) == 6
    assert ids == collected_ids(dynamic, about_one(dynamic, media, (6,)))


def test_graph_runs_work_once_to_warm_up_and_then_replays_it():
    done, captured = [], []

    class Replaying:
        def __init__(self, work):
            self.replay = work

    def capture(work, device):
        captured.append(1)
        return Replaying(lambda: done.append("replayed"))

    graph = GraphRunner(CPU, capture)
    for _ in range(3):
        graph.run(lambda: done.append("run"))

    assert (done, captured) == (["run", "replayed", "replayed"], [1])


def test_captured_step_serves_the_next_answers_on_the_same_storage(static, dynamic, media, tapes):
    conversations = [about(media, question) for question in QUESTIONS[:3]]

    with forward_shapes(static.model) as shapes:
        texts = [answer(static, conversation, media, max_new_tokens=12)[0] for conversation in conversations]

    assert len(tapes) == 1
    assert len(shapes) < 8  # three prompts, warm-up, capture
    for text, conversation in zip(texts, conversations, strict=True):
        dynamic.clear_cache()
        assert answer(dynamic, conversation, media, max_new_tokens=12)[0] == text


def test_replayed_steps_decode_rows_of_several_sequences_as_dynamic_ones_do(static, dynamic, media, tapes):
    expected = collected_ids(dynamic, mixed(dynamic, media))

    assert collected_ids(static, mixed(static, media)) == expected
    assert len(tapes) > 2  # sequences were left out


def test_turns_hit_the_prefix_cache_as_in_dynamic_decode(static, dynamic, media):
    def told(engine):
        text, first = answer(engine, about(media, "What moves?"), media)
        follow_up, second = answer(engine, about(media, "What moves?", text, "Where to?"), media)
        _, third = answer(engine, about(media, "What moves?", text, "Where to?", follow_up, "Why?"), media)
        return text, follow_up, [usage.cached_tokens for usage in (first, second, third)]

    assert told(static) == told(dynamic)


@pytest.mark.parametrize("num_chunks", [1, 2, 4])
def test_answer_given_up_leaves_the_next_one_right(static, media, num_chunks):
    conversations = [about(media, question) for question in QUESTIONS]
    chunks = static.answer(requests_about(static, conversations[:3], media))
    for _ in zip(range(num_chunks), chunks, strict=False):
        pass
    chunks.close()

    text, usage = answer(static, conversations[2], media)

    assert usage.cached_tokens > 44  # the clip and the image
    assert text == reference_answer(static, conversations[2], media)


@pytest.mark.parametrize("at_call", [2, 3, 4])
def test_interrupt_inside_a_step_leaves_the_next_answers_right(static, media, at_call):
    conversation, calls = about(media, "What moves?"), []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt

    handle = static.model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        answer(static, conversation, media)
    handle.remove()

    text, usage = answer(static, conversation, media)
    assert (text, usage.cached_tokens) == (reference_answer(static, conversation, media), usage.prompt_tokens - 1)


def test_answers_together_with_early_ends_are_those_of_generate(static, media):
    conversations = [about(media, question) for question in QUESTIONS]

    together, usages = answers_together(static, conversations, media)

    assert together == [reference_answer(static, conversation, media) for conversation in conversations]
    assert [usage.cached_tokens > 0 for usage in usages] == [False] + [True] * 5


def test_capacity_is_reserved_before_the_prompt_is_run(static, media):
    answer(static, about(media, "What moves?"), media, max_new_tokens=2)
    static.clear_cache()
    (request,) = about_one(static, media, (300,))
    reserved = []

    def note(module, args, kwargs, output):
        reserved.append(nbytes(kwargs["past_key_values"].storage))

    handle = static.model.model.language_model.register_forward_hook(note, with_kwargs=True)
    pairs = static.answer([request])
    next(pairs), next(pairs), next(pairs)
    pairs.close()
    handle.remove()

    assert len(set(reserved)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_token_is_drawn_as_multinomial_draws_it(mini, seed):
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(seed))
    requests = about_one(mini, [], (1, 1, 1), temperature=1.0, seed=seed)
    sequences = [sequence_about(mini, each.conversation, [], temperature=1.0, seed=seed) for each in requests]
    for sequence in sequences:
        sequence.generator = torch.Generator().manual_seed(seed)

    drawn = sample(logits, sequences)

    one_by_one = [
        torch.multinomial(share, 1, generator=torch.Generator().manual_seed(seed)) for share in logits.softmax(-1)
    ]
    assert drawn.tolist() == torch.cat(one_by_one).tolist()


def test_decode_is_dynamic_on_a_cpu(tiny):
    assert not ModelRunner(tiny.model).is_static
