"""Questions about different media answered at once: the answers are those that each gets alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from container import enter_container

from videollava_cli.engine.batch import MAX_CPU_ROWS, Request, answer_batch, num_fitting_rows
from videollava_cli.engine.checkpoint import model_size, needed_memory
from videollava_cli.engine.prompting import one_question
from videollava_cli.engine.startup import load
from videollava_cli.errors import MemoryFullError, UsageError
from videollava_cli.reader import MediaReader
from videollava_cli.settings import for_one_answer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUESTIONS = ("What happens?", "What color is it?", "How many shapes are there, and where?")
GREEDY = {"max_new_tokens": 12}


def requests_about(engine, names, questions):
    with MediaReader() as reader:
        media = [reader.read(reader.find(str(EXAMPLES / name)), engine.checkpoint.pixels) for name in names]
    return [
        Request(one_question([medium.kind], question, engine.settings), (medium,))
        for medium in media
        for question in questions
    ]


def alone(engine, request, settings):
    return "".join(chunk.text for chunk in engine.stream(request.conversation, request.media, settings))


def assert_equal_to_single_answers(engine, requests, options):
    settings = for_one_answer(engine.settings, options)
    together = [answer.text for answer in answer_batch(engine, requests, settings)]
    assert together == [alone(engine, request, settings) for request in requests]


@pytest.fixture(scope="module")
def all_media():
    return sorted(path.name for path in EXAMPLES.iterdir() if path.suffix != ".md")


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
def test_batched_answers_of_the_bundled_model_equal_single_ones(tiny, all_media, questions):
    assert_equal_to_single_answers(tiny, requests_about(tiny, all_media, questions), {"max_new_tokens": 64})


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        GREEDY | {"repetition_penalty": 1.3},
        GREEDY | {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7},
    ],
    ids=["greedy", "repetition penalty", "sampled"],
)
def test_batched_answers_of_random_weights_equal_single_ones(small, questions, options):
    names = ["circle-moves-right.mp4", "triangle.jpg", "star-grows.webm"]

    assert_equal_to_single_answers(small, requests_about(small, names, questions), options)


def test_rows_that_end_early_leave_the_others_alone(tiny):
    requests = requests_about(tiny, ["triangle.jpg", "circle-and-triangle.mp4"], ["What color is it?", "What happens?"])

    answers = answer_batch(tiny, requests)

    assert len({answer.usage.new_tokens for answer in answers}) > 2
    assert [answer.finish_reason for answer in answers] == ["stop"] * 4
    assert [answer.text for answer in answers] == [alone(tiny, request, None) for request in requests]


def test_usage_counts_what_rows_about_a_medium_share_once(tiny):
    answers = answer_batch(tiny, requests_about(tiny, ["star-grows.webm", "ring-moves-up.mp4"], QUESTIONS))

    cached = [answer.usage.cached_tokens for answer in answers]
    assert cached[0] == cached[3] == 0
    assert min(cached[1:3] + cached[4:]) > tiny.checkpoint.tokens_per_video
    assert all(answer.usage.prompt_tokens > answer.usage.cached_tokens for answer in answers)


def test_prompt_over_the_context_is_an_error_of_its_own(tiny):
    answers = answer_batch(tiny, requests_about(tiny, ["star-grows.webm"], ["What happens?", "Why? " * 200]))

    assert answers[0].text == "A yellow star grows."
    assert isinstance(answers[1], UsageError)


def test_answer_ends_with_the_context(tiny):
    room = 3
    question = "Why? " * 10
    length = answer_batch(tiny, requests_about(tiny, ["star-grows.webm"], [question]))[0].usage.prompt_tokens
    checkpoint = replace(tiny.checkpoint, context_length=length + room)
    cut = replace(tiny, checkpoint=checkpoint)

    answers = answer_batch(cut, requests_about(cut, ["star-grows.webm"], [question, "What happens?"]))

    assert [answer.finish_reason for answer in answers] == ["length", "stop"]
    assert answers[0].usage.new_tokens == room


def test_full_memory_is_told_as_such(tiny, monkeypatch):
    def full(*_arguments, **_options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(tiny.model, "forward", full)
    with pytest.raises(MemoryFullError, match="out of memory: try --load-4bit"):
        answer_batch(tiny, requests_about(tiny, ["star-grows.webm"], QUESTIONS))


def test_number_of_rows_follows_from_the_memory_that_a_container_leaves(small, tmp_path, monkeypatch):
    need = needed_memory(model_size(small.checkpoint), small.settings, 32).answer
    rows = []
    for num_answers in (1000, 4, 0):
        enter_container(tmp_path, monkeypatch, limit=2**30 + 4 * need * num_answers // 3, used=2**30)
        rows.append(num_fitting_rows(small))

    assert rows == [MAX_CPU_ROWS, 4, 1]


def test_four_bits_answer_in_batches_too():
    engine = load("tiny", device="cpu", load_4bit=True)

    requests = requests_about(engine, ["circle-moves-right.mp4", "ring-moves-up.mp4"], QUESTIONS[:1])

    assert [answer.text for answer in answer_batch(engine, requests)] == [alone(engine, r, None) for r in requests]
