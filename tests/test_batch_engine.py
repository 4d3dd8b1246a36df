"""Questions about different media answered at once: the answers are those that each gets alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from container import enter_container
from conversations import collected

from videollava_cli.engine import MAX_CPU_SEQS, Request
from videollava_cli.engine.checkpoint import model_size, needed_memory
from videollava_cli.engine.startup import load
from videollava_cli.errors import UsageError
from videollava_cli.prompt import one_question
from videollava_cli.reader import Reader
from videollava_cli.settings import for_one_answer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUESTIONS = ("What happens?", "What color is it?", "How many shapes are there, and where?")
GREEDY = {"max_new_tokens": 12}


def requests_about(engine, names, questions, **options):
    with Reader(engine.settings) as reader:
        media = [reader.read(reader.find(str(EXAMPLES / name)), engine.checkpoint.pixels) for name in names]
    settings = for_one_answer(engine.settings, options)
    return [
        Request(one_question([medium.kind], question, settings), (medium,), settings)
        for medium in media
        for question in questions
    ]


def whole(engine, requests, max_num_seqs=8):
    """Answer requests; return the text and the last chunk of each."""
    texts, last = dict.fromkeys(requests, ""), {}
    for request, chunk in engine.answer(requests, max_num_seqs=max_num_seqs):
        texts[request] += chunk.text
        last[request] = chunk
    return list(texts.values()), [last[request] for request in requests]


def alone(engine, request):
    return "".join(chunk.text for chunk in engine.stream(request.conversation, request.media, request.settings))


def assert_equal_to_single_answers(engine, requests):
    engine.clear_cache()
    texts, _ = collected(engine, requests, max_num_seqs=8)
    assert texts == [alone(engine, request) for request in requests]


@pytest.fixture(scope="module")
def all_media():
    return sorted(path.name for path in EXAMPLES.iterdir() if path.suffix not in (".md", ".srt"))


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
def test_batched_answers_of_the_bundled_model_equal_single_ones(tiny, all_media, questions):
    assert_equal_to_single_answers(tiny, requests_about(tiny, all_media, questions, max_new_tokens=64))


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

    assert_equal_to_single_answers(small, requests_about(small, names, questions, **options))


def test_sequences_that_end_early_leave_the_others_alone(tiny):
    requests = requests_about(tiny, ["triangle.jpg", "circle-and-triangle.mp4"], ["What color is it?", "What happens?"])

    texts, last = whole(tiny, requests)

    assert len({chunk.usage.new_tokens for chunk in last}) > 2
    assert [chunk.finish_reason for chunk in last] == ["stop"] * 4
    assert texts == [alone(tiny, request) for request in requests]


def test_usage_counts_what_questions_about_a_medium_share_once(tiny):
    tiny.clear_cache()

    _, last = whole(tiny, requests_about(tiny, ["star-grows.webm", "ring-moves-up.mp4"], QUESTIONS))

    cached = [chunk.usage.cached_tokens for chunk in last]
    assert cached[0] == cached[3] == 0
    assert min(cached[1:3] + cached[4:]) > tiny.checkpoint.tokens_per_video
    assert all(chunk.usage.prompt_tokens > chunk.usage.cached_tokens for chunk in last)


def test_next_question_about_the_last_clip_of_a_batch_hits_the_prefix_cache(tiny):
    requests = requests_about(tiny, ["star-grows.webm", "ring-moves-up.mp4"], QUESTIONS[:2])
    tiny.clear_cache()

    whole(tiny, [requests[0], requests[2]])
    _, last = whole(tiny, [requests[3]])

    assert last[0].usage.cached_tokens > tiny.checkpoint.tokens_per_video


def test_prompt_over_the_context_is_an_error_of_its_own(tiny):
    texts, last = whole(tiny, requests_about(tiny, ["star-grows.webm"], ["What happens?", "Why? " * 200]))

    assert texts[0] == "A yellow star grows."
    assert isinstance(last[1].error, UsageError)


def test_answer_ends_with_the_context(tiny):
    num_left = 3
    question = "Why? " * 10
    _, last = whole(tiny, requests_about(tiny, ["star-grows.webm"], [question]))
    checkpoint = replace(tiny.checkpoint, context_length=last[0].usage.prompt_tokens + num_left)
    cut = replace(tiny, checkpoint=checkpoint, encoder=None)

    _, last = whole(cut, requests_about(cut, ["star-grows.webm"], [question, "What happens?"]))

    assert [chunk.finish_reason for chunk in last] == ["length", "stop"]
    assert last[0].usage.new_tokens == num_left


def test_memory_that_does_not_suffice_for_one_is_an_error_of_each(tiny):
    def full(*_):
        raise torch.OutOfMemoryError

    engine = replace(tiny)
    handle = engine.model.register_forward_pre_hook(full)
    _, last = whole(engine, requests_about(tiny, ["star-grows.webm"], QUESTIONS))
    handle.remove()

    assert ["out of memory after 0 tokens of the answer: try --load-4bit" in str(chunk.error) for chunk in last] == [
        True
    ] * 3
    assert engine.max_num_seqs == 1


def test_number_of_sequences_follows_from_the_memory_that_a_container_leaves(small, tmp_path, monkeypatch):
    need = needed_memory(model_size(small.checkpoint), small.settings, 32).answer
    numbers = []
    for num_answers in (1000, 4, 0):
        enter_container(tmp_path, monkeypatch, limit=2**30 + 4 * need * num_answers // 3, used=2**30)
        numbers.append(replace(small).max_num_seqs)

    assert numbers == [MAX_CPU_SEQS, 4, 1]


def test_four_bits_answer_in_batches_too():
    engine = load("tiny", device="cpu", load_4bit=True)

    requests = requests_about(engine, ["circle-moves-right.mp4", "ring-moves-up.mp4"], QUESTIONS[:1])

    assert_equal_to_single_answers(engine, requests)
