"""Our token loop against `model.generate`, in the 7B's token geometry with random weights."""

import parity
import pytest

from videollava_cli import load

SINGLE = [("greedy", range(13)), ("repetition penalty", (0, 3, 6)), ("sampled", (1, 4, 7)), ("nf4", (2, 3, 7))]


@pytest.fixture(scope="module")
def quantized(small_checkpoint):
    return load(str(small_checkpoint), device="cpu", dtype="float32", load_4bit=True)


@pytest.mark.parametrize(("mode", "number"), [(mode, number) for mode, numbers in SINGLE for number in numbers])
def test_answer_equals_that_of_generate(small, quantized, mode, number):
    case = parity.make_cases(small)[number]

    outcome = parity.compare(quantized if mode == "nf4" else small, [case], mode, parity.MODES[mode])[0]

    assert outcome.ours == outcome.reference


@pytest.mark.parametrize("mode", ["greedy", "nf4"])
def test_left_padded_batch_of_images_clips_and_both_equals_generate(small, quantized, mode):
    cases = [parity.make_cases(small)[number] for number in (1, 3, 8)]

    outcomes = parity.compare(quantized if mode == "nf4" else small, cases, mode, parity.MODES[mode])

    assert [outcome.ours for outcome in outcomes] == [outcome.reference for outcome in outcomes]


def test_prompts_have_the_token_counts_of_the_7b(small):
    checkpoint = small.checkpoint

    assert (checkpoint.tokens_per_video, checkpoint.tokens_per_image, checkpoint.context_length) == (2056, 256, 4096)


def test_turns_of_a_conversation_are_answered_on_what_is_kept_as_by_generate(small):
    small.clear_cache()
    for case in parity.turn_by_turn(parity.make_cases(small)[12]):
        assert parity.engine_text(small, case) == parity.reference_text(small, case)


@pytest.mark.parametrize("mode", ["greedy", "repetition penalty", "sampled"])
def test_questions_together_are_answered_as_alone(small, mode):
    cases = [case for number in (3, 4, 5) for case in parity.turn_by_turn(parity.make_cases(small)[number])]
    small.clear_cache()

    together = parity.engine_texts(small, cases, parity.MODES[mode])

    for text, case in zip(together, cases, strict=True):
        small.clear_cache()
        assert text == parity.engine_text(small, case, parity.MODES[mode])
