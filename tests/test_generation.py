"""The token loop: what it yields, when it stops, and how ids become text."""

import numpy as np
import parity
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from videollava_cli.generation import Decoding, Detokenizer, Prompts, generate, pad_left

LONG_AS_ASKED = frozenset[int]()  # no id ends the answer


@pytest.fixture
def prompts(small):
    """Make a left-padded batch of two text prompts of different lengths."""
    rows = [small.tokenizer(text)["input_ids"] for text in ("USER: A red circle. ASSISTANT:", "USER: moves")]
    return Prompts(*pad_left(rows, small.tokenizer.pad_token_id, torch.device("cpu")))


@pytest.fixture
def forward_calls(small):
    """Count how often the model runs, by one of torch's own hooks."""
    calls = []
    handle = small.model.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def test_model_runs_only_as_far_as_tokens_are_asked_for(small, prompts, forward_calls):
    tokens = generate(small.model, prompts, Decoding((50, 50), LONG_AS_ASKED))

    next(tokens), next(tokens)
    tokens.close()

    assert len(forward_calls) == 2


def test_each_row_ends_at_its_own_budget(small, prompts):
    steps = list(generate(small.model, prompts, Decoding((3, 5), LONG_AS_ASKED)))

    assert [set(step) for step in steps] == [{0, 1}] * 3 + [{1}] * 2


def test_row_ends_behind_its_end_of_answer_id(small, prompts):
    free = [step[0] for step in generate(small.model, prompts, Decoding((9, 9), LONG_AS_ASKED))]
    end = free[2]

    steps = list(generate(small.model, prompts, Decoding((9, 9), frozenset([end]))))

    assert [step.get(0) for step in steps][: free.index(end) + 2] == [*free[: free.index(end) + 1], None]


def test_failure_inside_the_model_reaches_the_caller(small, prompts):
    def fail(*_):
        raise RuntimeError("the card fell off")

    handle = small.model.register_forward_hook(fail)

    with pytest.raises(RuntimeError, match="the card fell off"):
        next(generate(small.model, prompts, Decoding((1, 1), LONG_AS_ASKED)))

    handle.remove()


def test_same_seed_gives_the_same_tokens_and_another_seed_others(small, prompts):
    def sampled(seed):
        return list(generate(small.model, prompts, Decoding((20, 20), LONG_AS_ASKED, temperature=2.0, seed=seed)))

    assert sampled(1) == sampled(1) != sampled(2)


def test_batch_of_different_lengths_answers_as_its_rows_alone(small):
    cases = parity.make_cases(small)[:3]

    together = parity.our_ids(small, cases, {})

    assert together == [parity.our_ids(small, [case], {})[0] for case in cases]


def test_prompt_padded_on_the_right_is_refused():
    ids, mask = torch.ones(1, 3, dtype=torch.long), torch.tensor([[1, 1, 0]])

    with pytest.raises(ValueError, match="pad on the left"):
        Prompts(ids, mask)


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


def test_rows_are_padded_on_the_left():
    ids, mask = pad_left([[5], [6, 7, 8]], 0, torch.device("cpu"))

    assert np.array_equal(ids, [[0, 0, 5], [6, 7, 8]])
    assert np.array_equal(mask, [[0, 0, 1], [1, 1, 1]])
