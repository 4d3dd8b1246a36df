"""What needs a CUDA card: numbers in fp16, 8 bits, placement. Run it there with `scripts/test -m gpu`."""

from dataclasses import replace

import parity
import pytest
import torch
from benchmarks.generate import first_difference, make_model, make_workload
from conversations import about, collected_ids, noise_clip, requests_about
from internals import generate_ids

from videollava_cli import load
from videollava_cli.engine import Request
from videollava_cli.engine.cuda_graph import capture_graph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]


def test_weights_are_fp16_on_the_card():
    engine = load("tiny", device="cuda")

    assert (engine.model.device.type, engine.model.dtype) == ("cuda", torch.float16)


def test_eight_bits_answer_truthfully():
    engine = load("tiny", device="cuda", load_8bit=True)

    answer = "".join(chunk.text for chunk in engine.ask(["examples/triangle.jpg"], "What color is it?"))

    assert answer == "It is brown."


@pytest.mark.parametrize("mode", ["greedy", "sampled"])
def test_answer_on_the_card_equals_that_of_generate(small_checkpoint, mode):
    engine = load(str(small_checkpoint), device="cuda", dtype="float32")
    case = parity.make_cases(engine)[4]

    outcome = parity.compare(engine, [case], mode, parity.MODES[mode])[0]

    assert outcome.ours == outcome.reference


CARD = torch.device("cuda")
MODES = ({}, {"repetition_penalty": 1.3}, {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7})
BUDGETS = (40, 3, 12, 300)


@pytest.fixture(scope="module")
def whole(small_checkpoint):
    """Load random weights of fp32 in the 7B's token geometry."""
    return load(str(small_checkpoint), device="cuda", dtype="float32")


def with_budgets(requests):
    return [
        Request(each.conversation, each.media, replace(each.settings, max_new_tokens=budget))
        for each, budget in zip(requests, BUDGETS, strict=True)
    ]


def test_decode_is_static_on_one_card_and_dynamic_in_eight_bits():
    assert load("tiny", device="cuda").runner.is_static
    assert not load("tiny", device="cuda", load_8bit=True).runner.is_static


@pytest.mark.parametrize("options", MODES)
def test_captured_rows_get_the_tokens_of_dynamic_decode(whole, options):
    clips = [noise_clip(whole, number) for number in range(len(BUDGETS))]
    requests = [requests_about(whole, [about([clip], "What moves?")], [clip], **options)[0] for clip in clips]

    static, dynamic = (
        collected_ids(replace(whole, static_decode=is_static), with_budgets(requests)) for is_static in (True, False)
    )

    assert static == dynamic


@pytest.mark.parametrize("options", MODES)
def test_captured_sequences_of_a_row_get_the_tokens_of_dynamic_decode(whole, options):
    clip = noise_clip(whole, 0)
    texts = ("What moves?", "Where to?", "Why?", "What color is it?")
    requests = requests_about(whole, [about([clip], text) for text in texts], [clip], **options)

    static, dynamic = (
        collected_ids(replace(whole, static_decode=is_static), with_budgets(requests)) for is_static in (True, False)
    )

    assert static == dynamic


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_captured_steps_give_the_very_numbers_of_steps_that_are_not(attention):
    model = make_model("small", CARD, torch.float16)
    model.set_attn_implementation(attention)
    workload, graphs = make_workload(model, "small", 1, 256), []

    def capture(work, device):
        graphs.append(capture_graph(work, device))
        return graphs[-1]

    def refuse(work, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    captured, eager = (
        list(generate_ids(model, workload.token_ids, workload.pixel_values, 256, capture=each))
        for each in (capture, refuse)
    )

    assert [type(graph) for graph in graphs] == [torch.cuda.CUDAGraph]
    assert captured == eager


def test_fp16_tokens_of_static_and_dynamic_decode_differ_by_rounding_alone():
    difference = first_difference(make_workload(make_model("small", CARD, torch.float16), "small", 1, 256))

    assert difference is None or difference.gap < 8


@pytest.mark.parametrize("options", MODES)
def test_captured_steps_wait_for_nothing_but_their_tokens(whole, options):
    workload = make_workload(whole.model, "small", 2, 20)
    steps = generate_ids(whole.model, workload.token_ids, workload.pixel_values, 20, **options)
    for _ in range(4):
        next(steps)

    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nf4_answers_of_static_decode_are_those_of_dynamic_decode():
    engine = load("tiny", device="cuda", load_4bit=True)
    requests = requests_about(engine, [about([], "What color is it?")], [], max_new_tokens=20)

    static, dynamic = (collected_ids(replace(engine, static_decode=is_static), requests) for is_static in (True, False))

    assert static == dynamic
