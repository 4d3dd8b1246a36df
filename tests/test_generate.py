"""The token loop: what it yields, when it stops, and how ids become text."""

from dataclasses import replace

import pytest
from conversations import about, collected_ids, requests_about
from hypothesis import given
from hypothesis import strategies as st

from videollava_cli.engine import Request
from videollava_cli.engine.request import Detokenizer

TEXTS = ("A red circle.", "moves")


@pytest.fixture
def engine(mini):
    """Hand out an engine of random weights, whose answers rarely end by themselves."""
    mini.clear_cache()
    return mini


@pytest.fixture
def forward_calls(engine):
    """Count how often the model runs, by one of torch's own hooks."""
    calls = []
    handle = engine.model.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def requests_with(engine, budgets, **options):
    """Return a text request for each budget of tokens."""
    requests = requests_about(engine, [about([], text) for text in TEXTS], [], **options)
    return [
        Request(request.conversation, (), replace(request.settings, max_new_tokens=budget))
        for request, budget in zip(requests, budgets, strict=True)
    ]


def test_model_runs_only_as_far_as_tokens_are_asked_for(engine, forward_calls):
    pairs = engine.answer(requests_with(engine, (50, 50))[:1])

    next(pairs), next(pairs)
    pairs.close()

    assert len(forward_calls) == 2


def test_each_answer_ends_at_its_own_budget(engine):
    ids = collected_ids(engine, requests_with(engine, (3, 5)))

    assert [len(each) for each in ids] == [3, 5]


def test_answer_ends_behind_its_end_of_answer_id(engine, monkeypatch):
    free = collected_ids(engine, requests_with(engine, (9, 9)))
    end = free[0][2]
    monkeypatch.setattr(engine.model.generation_config, "eos_token_id", end)

    requests = requests_with(engine, (9, 9))
    chunks = [chunk for request, chunk in engine.answer(requests) if request is requests[0]]

    assert [token for chunk in chunks for token in chunk.token_ids] == free[0][: free[0].index(end) + 1]
    assert (chunks[-1].finish_reason, chunks[-1].usage.new_tokens) == ("stop", free[0].index(end))


def test_failure_inside_the_model_reaches_the_caller(engine):
    def fail(*_):
        raise RuntimeError("the card fell off")

    handle = engine.model.register_forward_hook(fail)

    with pytest.raises(RuntimeError, match="the card fell off"):
        next(engine.answer(requests_with(engine, (1, 1))))

    handle.remove()


def test_same_seed_gives_the_same_tokens_and_another_seed_others(engine):
    def sampled(seed):
        return collected_ids(engine, requests_with(engine, (20, 20), temperature=2.0, seed=seed))

    assert sampled(1) == sampled(1) != sampled(2)


@given(text=st.text(max_size=30))
def test_pieces_of_any_text_add_up_to_it(small, text):
    ids = small.tokenizer(text, add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(small.tokenizer)

    text = "".join([*(detokenizer.add(token) for token in ids), detokenizer.finish()])

    assert text == small.tokenizer.decode(ids, skip_special_tokens=True)


def test_characters_of_several_bytes_come_whole(small):
    text = "größer als 世界 🎬, 👩‍🚀!"
    detokenizer = Detokenizer(small.tokenizer)

    pieces = [detokenizer.add(token) for token in small.tokenizer(text, add_special_tokens=False)["input_ids"]]

    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_answer_cut_inside_a_character_ends_with_a_replacement_sign(small):
    ids = small.tokenizer("a🦒", add_special_tokens=False)["input_ids"][:-1]
    detokenizer = Detokenizer(small.tokenizer)

    streamed = "".join(detokenizer.add(token) for token in ids)

    assert streamed == "a"
    assert set(detokenizer.finish()) == {"\ufffd"}


def test_bytes_that_are_no_text_do_not_hold_back_what_follows(small):
    garbage = small.tokenizer.convert_tokens_to_ids(["<0x00>", "<0x80>"])
    word = small.tokenizer("circle", add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(small.tokenizer)

    pieces = [detokenizer.add(token) for token in (*garbage, *word)]

    assert "".join(pieces).endswith("circle")


@pytest.mark.parametrize(
    ("extreme", "limit"),
    [
        ({"temperature": 1e-40}, {}),
        ({"temperature": 5e-324, "top_k": 7}, {}),
        ({"temperature": 1e-12, "repetition_penalty": 1e-300}, {"repetition_penalty": 1e-15}),
        ({"temperature": 0.7, "top_p": 1e-40}, {}),
        ({"repetition_penalty": 1e-40}, {"repetition_penalty": 1e-15}),
        ({"repetition_penalty": 1e40}, {"repetition_penalty": 1e15}),
        ({"repetition_penalty": 1e308, "temperature": 1.0}, {"repetition_penalty": 1e15, "temperature": 1.0}),
        ({"temperature": 1e300, "seed": 3}, {"temperature": 1e30, "seed": 3}),
    ],
)
def test_values_that_no_float32_holds_sample_as_their_limit_does(engine, extreme, limit):
    def ids(values):
        return collected_ids(engine, requests_with(engine, (20, 20), **values))

    assert ids(extreme) == ids(limit)
