"""Steps of one shape, as a CUDA card records and replays them: on a CPU the same tokens as of steps that grow."""

import inspect
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from conversations import about, answer, answers_together, noise_clip, noise_image, reference_answer, settings_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from videollava_cli.engine.prompting import prompt_ids
from videollava_cli.generation import (
    Decoding,
    Fan,
    Prompts,
    Rest,
    Steps,
    best_steps,
    cache_bytes,
    caching,
    choosing,
    cut,
    fixed,
    generate,
    generate_behind,
    graphs,
    new_cache,
    pad_left,
    prefill,
)

from videollava_cli.preprocessing import pixel_values

LONG_AS_ASKED = frozenset[int]()  # no id ends the answer
CPU = torch.device("cpu")
BUDGETS = (3, 12, 7, 12, 1, 9)  # of six answers, so that lanes end at different steps
QUESTIONS = ("What moves?", "Where to, and why?", "größer als 世界 🎬?", "A", "What moves?", "What?")
OPTIONS = (
    {},
    {"repetition_penalty": 1.5},
    {"temperature": 0.9, "top_p": 0.9, "top_k": 30, "seed": 5},
    {"temperature": 2.0, "repetition_penalty": 1.2, "seed": 1},
)


@pytest.fixture(params=["sdpa", "eager"])
def model(request, mini):
    """Hand out the model with each attention that takes our masks."""
    mini.model.set_attn_implementation(request.param)
    yield mini.model
    mini.model.set_attn_implementation("sdpa")


@pytest.fixture(scope="module")
def media(mini):
    return [noise_clip(mini, 0), noise_image(mini, 1)]


@pytest.fixture
def engine(mini):
    """Hand out an engine whose steps have one shape."""
    mini.forget()
    mini._runner.steps = Steps.FIXED
    yield mini
    mini._runner.steps = None
    mini.forget()


@pytest.fixture
def small_rooms(monkeypatch):
    """Make new room every few steps."""
    monkeypatch.setattr(caching, "ROOM_TOKENS", 8)
    monkeypatch.setattr(fixed, "STEPS_OF_ROOM", 3)


class Tape(TorchDispatchMode):
    """What a CUDA graph is on a card: the operations on tensors that some work was, done again on the same tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        """Do the operations again, in order."""
        made = {}

        def now(value):
            return made.get(id(value), value)

        for function, args, kwargs, result in self.operations:
            again = function(*tree_map(now, args), **tree_map(now, kwargs))
            made |= {id(old): new for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True)}


@pytest.fixture
def tapes(monkeypatch):
    """Record steps on tapes, each of which is replayed without a line of Python of the model."""
    tapes = []

    def record(work, device):
        step = inspect.getclosurevars(work).nonlocals["self"]
        before = [tensor.clone() for tensor in (step.mask, step.positions, step.places)]
        with Tape() as tape:
            work()
        for tensor, value in zip((step.mask, step.positions, step.places), before, strict=True):
            tensor.copy_(value)  # recording does none of the work
        tapes.append(tape)
        return tape

    monkeypatch.setattr(graphs, "record", record)
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


def ids_of(engine, text):
    return engine.tokenizer(text)["input_ids"]


def collected(steps, num_answers):
    """Return the ids of each answer from the steps of either loop."""
    steps = [step if isinstance(step, dict) else {n: t for n, t in enumerate(step) if t is not None} for step in steps]
    return [[step[number] for step in steps if number in step] for number in range(num_answers)]


def behind(model, shared, rests, decoding, steps):
    """Generate behind a shared prefix that is run first."""
    cache = new_cache(model.config)
    prefill(model, cache, Rest(shared))
    return collected(generate_behind(model, cache, [Rest([*shared, *rest]) for rest in rests], decoding, steps), 6)


def generated(model, ids, max_new_tokens, **options):
    """Return what transformers generates behind ids."""
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, eos_token_id=None, do_sample=False, **options)
    return output[0, len(ids) :].tolist()


def alone(model, ids, decoding, steps):
    return collected(generate_behind(model, new_cache(model.config), [Rest(ids)], decoding, steps), 1)[0]


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_one_prompt_gets_the_tokens_of_growing_steps_and_of_generate(mini, model, options):
    ids, decoding = ids_of(mini, "USER: What moves? ASSISTANT:"), Decoding((20,), LONG_AS_ASKED, **options)

    fixed_ids = alone(model, ids, decoding, Steps.FIXED)

    assert fixed_ids == alone(model, ids, decoding, Steps.GROWING) == generated(model, ids, 20, **options)


@pytest.mark.parametrize("options", OPTIONS)
def test_branches_behind_a_prefix_get_the_tokens_of_growing_steps(mini, model, options):
    shared, rests = ids_of(mini, "USER: You watch closely."), [ids_of(mini, question) for question in QUESTIONS]
    decoding = Decoding(BUDGETS, LONG_AS_ASKED, **options)

    growing = behind(model, shared, rests, decoding, Steps.GROWING)
    ended = replace(decoding, eos_token_ids=frozenset([growing[1][4]]))

    assert behind(model, shared, rests, decoding, Steps.FIXED) == growing
    assert behind(model, shared, rests, ended, Steps.FIXED) == behind(model, shared, rests, ended, Steps.GROWING)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("is_fan", [False, True])
def test_rows_of_a_batch_get_the_tokens_of_growing_steps(mini, model, media, options, is_fan):
    frames = pixel_values(media[0].pixels, mini.checkpoint.pixels)
    questions = QUESTIONS if is_fan else [f"<video>\n{question}" for question in QUESTIONS]
    rows = [prompt_ids(f"USER: {question} ASSISTANT:", mini.tokenizer, mini.checkpoint) for question in questions]
    videos = frames[None].expand(1 if is_fan else 6, -1, -1, -1, -1)
    if is_fan:
        opening = prompt_ids("USER: <video>\nWatch.", mini.tokenizer, mini.checkpoint)
        given = Fan(Prompts(*pad_left([opening], 0, CPU), pixel_values_videos=videos), [0] * 6, rows)
    else:
        given = Prompts(*pad_left(rows, 0, CPU), pixel_values_videos=videos)
    decoding = Decoding(BUDGETS, LONG_AS_ASKED, **options)

    growing, fixed_ids = (collected(generate(model, given, decoding, steps), 6) for steps in Steps)

    assert [len(ids) for ids in fixed_ids] == list(BUDGETS)
    assert fixed_ids == growing


def test_rows_of_a_batch_get_the_tokens_of_generate(mini):
    rows = [ids_of(mini, question) for question in QUESTIONS]
    decoding = Decoding(BUDGETS, LONG_AS_ASKED)

    together = collected(generate(mini.model, Prompts(*pad_left(rows, 0, CPU)), decoding, Steps.FIXED), 6)

    assert together == [generated(mini.model, ids, budget) for ids, budget in zip(rows, BUDGETS, strict=True)]


def test_ended_lanes_run_along_until_half_have_ended(mini):
    rows = [ids_of(mini, question) for question in QUESTIONS[:4]]
    decoding = Decoding((2, 4, 6, 8), LONG_AS_ASKED)

    with forward_shapes(mini.model) as shapes:
        list(generate(mini.model, Prompts(*pad_left(rows, 0, CPU)), decoding, Steps.FIXED))
        list(generate_behind(mini.model, new_cache(mini.model.config), list(map(Rest, rows)), decoding, Steps.FIXED))

    # The step behind the fourth token, at which the second lane ends, was started before it was known.
    numbers = [4, 4, 4, 4, 2, 1, 1]
    assert shapes[1:8] == [(number, 1) for number in numbers]
    assert shapes[9:] == [(1, number) for number in numbers]


def test_room_that_runs_out_is_made_anew(mini, small_rooms):
    rows = [ids_of(mini, question) for question in QUESTIONS]
    decoding = Decoding((20, 9, 20, 20, 3, 20), LONG_AS_ASKED)
    prompts = Prompts(*pad_left(rows, 0, CPU))

    growing, fixed_ids = (collected(generate(mini.model, prompts, decoding, steps), 6) for steps in Steps)
    branches_growing, branches = (behind(mini.model, [1, 5], rows, decoding, steps) for steps in Steps)

    assert (fixed_ids, branches) == (growing, branches_growing)


def test_budget_may_fill_the_room_to_its_last_place(mini, monkeypatch):
    monkeypatch.setattr(caching, "ROOM_TOKENS", 32)
    ids = ids_of(mini, "USER: What moves? ASSISTANT:")
    decoding = Decoding((caching.ROOM_TOKENS - len(ids) + 1,), LONG_AS_ASKED)
    cache = new_cache(mini.model.config)

    steps = list(generate_behind(mini.model, cache, [Rest(ids)], decoding, Steps.FIXED))

    assert cache.get_seq_length() == 32 == cache.rooms[0].shape[-2]
    assert collected(steps, 1)[0] == alone(mini.model, ids, decoding, Steps.GROWING)


def test_numbers_left_in_unused_room_do_not_matter(mini):
    ids, decoding = ids_of(mini, "USER: What moves? ASSISTANT:"), Decoding((8,), LONG_AS_ASKED)
    cache = new_cache(mini.model.config)
    prefill(mini.model, cache, Rest(ids))
    with torch.inference_mode():
        for room in cache.rooms:
            room[..., len(ids) :, :] = torch.nan
    cut(cache, len(ids) - 1)

    steps = generate_behind(mini.model, cache, [Rest(ids)], decoding, Steps.FIXED)

    assert collected(steps, 1)[0] == alone(mini.model, ids, decoding, Steps.GROWING)


def test_steps_are_run_ahead_of_their_tokens_once_they_are_recorded(mini):
    ids = ids_of(mini, "USER: What moves? ASSISTANT:")
    steps = generate_behind(
        mini.model, new_cache(mini.model.config), [Rest(ids)], Decoding((6,), frozenset()), Steps.FIXED
    )

    with forward_shapes(mini.model) as shapes:
        num_run = [len(shapes) for _ in steps]

    assert num_run == [1, 2, 4, 5, 6, 6]  # the third one is recorded; behind the last token there is none to run


def test_recording_that_fails_leaves_the_answer_as_it_is(mini, monkeypatch):
    def refuse(work, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    ids, decoding = ids_of(mini, "USER: What moves? ASSISTANT:"), Decoding((6,), LONG_AS_ASKED)
    monkeypatch.setattr(graphs, "record", refuse)

    with forward_shapes(mini.model) as shapes:
        fixed_ids = alone(mini.model, ids, decoding, Steps.FIXED)

    assert len(shapes) == 6
    assert fixed_ids == alone(mini.model, ids, decoding, Steps.GROWING)


def test_recording_serves_the_next_answers_in_the_same_room(engine, media, monkeypatch):
    recordings = []
    monkeypatch.setattr(graphs, "record", lambda work, device: recordings.append(1))

    text, _ = answer(engine, about(media, "What moves?"), media)
    again, _ = answer(engine, about([media[0]], "Where to?"), [media[0]])

    assert len(recordings) == 1
    assert text == reference_answer(engine, about(media, "What moves?"), media)
    assert again == reference_answer(engine, about([media[0]], "Where to?"), [media[0]])


def test_replayed_operations_write_rows_and_branches_as_growing_steps_do(mini, small_rooms, tapes):
    rows = [ids_of(mini, question) for question in QUESTIONS]
    decoding = Decoding((30, 12, 30, 30, 4, 30), LONG_AS_ASKED)
    prompts = Prompts(*pad_left(rows, 0, CPU))

    growing, fixed_ids = (collected(generate(mini.model, prompts, decoding, steps), 6) for steps in Steps)
    branches_growing, branches = (behind(mini.model, [1, 5], rows, decoding, steps) for steps in Steps)

    assert len(tapes) > 4  # room ran out, lanes were dropped
    assert (fixed_ids, branches) == (growing, branches_growing)


def test_replayed_operations_answer_turn_after_turn(engine, media, tapes):
    conversations = [about(media, question) for question in QUESTIONS[:3]]

    with forward_shapes(engine.model) as shapes:
        answers = [answer(engine, conversation, media, max_new_tokens=12)[0] for conversation in conversations]

    assert len(tapes) == 1
    assert len(shapes) < 8  # three prompts, warming up, recording
    for text, conversation in zip(answers, conversations, strict=True):
        engine.forget()
        engine._runner.steps = Steps.GROWING
        assert answer(engine, conversation, media, max_new_tokens=12)[0] == text


def test_turns_are_answered_on_what_is_kept_as_by_growing_steps(engine, media):
    def told(steps):
        engine.forget()
        engine._runner.steps = steps
        text, first = answer(engine, about(media, "What moves?"), media)
        follow_up, second = answer(engine, about(media, "What moves?", text, "Where to?"), media)
        _, third = answer(engine, about(media, "What moves?", text, "Where to?", follow_up, "Why?"), media)
        return text, follow_up, [usage.cached_tokens for usage in (first, second, third)]

    growing = told(Steps.GROWING)

    assert told(Steps.FIXED) == growing


@pytest.mark.parametrize("num_chunks", [1, 2, 4])
def test_answer_given_up_leaves_the_next_one_right(engine, media, num_chunks):
    conversations = [about(media, question) for question in QUESTIONS]
    chunks = engine.stream_together(conversations[:3], media, settings_for(engine))
    for _ in zip(range(num_chunks), chunks, strict=False):
        pass
    chunks.close()

    text, usage = answer(engine, conversations[2], media)

    assert usage.cached_tokens > 44  # the clip and the image
    assert text == reference_answer(engine, conversations[2], media)


@pytest.mark.parametrize("at_call", [2, 3, 4])
def test_interrupt_inside_a_step_leaves_the_next_answers_right(engine, media, at_call):
    conversation, calls = about(media, "What moves?"), []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt

    handle = engine.model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        answer(engine, conversation, media)
    handle.remove()

    text, usage = answer(engine, conversation, media)
    assert (text, usage.cached_tokens) == (reference_answer(engine, conversation, media), usage.prompt_tokens - 1)


def test_answers_together_with_early_ends_are_those_of_generate(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]

    together, usages = answers_together(engine, conversations, media)

    assert together == [reference_answer(engine, conversation, media) for conversation in conversations]
    assert [usage.cached_tokens > 0 for usage in usages] == [False] + [True] * 5


def test_room_is_made_before_the_prompt_is_run(mini):
    ids, cache = ids_of(mini, "USER: What moves? ASSISTANT:"), new_cache(mini.model.config)
    steps = generate_behind(mini.model, cache, [Rest(ids)], Decoding((300,), LONG_AS_ASKED), Steps.FIXED)

    next(steps)
    at_first = cache_bytes(cache), [room.data_ptr() for room in cache.rooms]
    next(steps), next(steps)

    assert (cache_bytes(cache), [room.data_ptr() for room in cache.rooms]) == at_first


@pytest.mark.parametrize("seed", range(20))
def test_a_token_is_drawn_as_multinomial_draws_it(seed):
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(seed))
    ids = torch.zeros(3, 1, dtype=torch.long)
    chooser = choosing.Chooser(Decoding((1, 1, 1), LONG_AS_ASKED, temperature=1.0, seed=seed), CPU)

    drawn = chooser.choose([0, 1, 2], ids, logits)

    one_by_one = [
        torch.multinomial(share, 1, generator=torch.Generator().manual_seed(seed)) for share in logits.softmax(-1)
    ]
    assert drawn.tolist() == torch.cat(one_by_one).tolist()


def test_steps_grow_on_a_cpu(tiny):
    assert best_steps(tiny.model) is Steps.GROWING
