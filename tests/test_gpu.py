"""What needs a CUDA card: numbers in fp16, 8 bits, placement. Run it there with `scripts/test -m gpu`."""

import parity
import pytest
import torch
from benchmarks.generate import first_difference, make_model, make_workload

from videollava_cli import load
from videollava_cli.generation import Decoding, Rest, Steps, best_steps, generate, generate_behind, graphs, new_cache

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


def refuse(work, device):
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture(scope="module")
def whole():
    """Make a model of fp32 in the 7B's token geometry."""
    return make_model("small", CARD, torch.float32)


def test_steps_are_fixed_on_one_card_and_grow_in_eight_bits():
    assert best_steps(load("tiny", device="cuda").model) is Steps.FIXED
    assert best_steps(load("tiny", device="cuda", load_8bit=True).model) is Steps.GROWING


@pytest.mark.parametrize("options", MODES)
def test_recorded_rows_get_the_tokens_of_growing_steps(whole, options):
    prompts = make_workload(whole, "small", 4, 1).prompts
    decoding = Decoding((40, 3, 12, 300), frozenset(), **options)

    fixed, growing = (list(generate(whole, prompts, decoding, steps)) for steps in (Steps.FIXED, Steps.GROWING))

    assert fixed == growing


@pytest.mark.parametrize("options", MODES)
def test_recorded_branches_get_the_tokens_of_growing_steps(whole, options):
    rests = [Rest([1, 5, 9, number]) for number in range(20, 26)]
    decoding = Decoding((40, 3, 12, 80, 80, 9), frozenset(), **options)

    fixed, growing = (
        list(generate_behind(whole, new_cache(whole.config), rests, decoding, steps))
        for steps in (Steps.FIXED, Steps.GROWING)
    )

    assert fixed == growing


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_recorded_steps_give_the_very_numbers_of_steps_that_are_not(monkeypatch, attention):
    model = make_model("small", CARD, torch.float16)
    model.set_attn_implementation(attention)
    graphs_made, record = [], graphs.record
    prompts, decoding = make_workload(model, "small", 1, 1).prompts, Decoding((256,), frozenset())

    monkeypatch.setattr(graphs, "record", lambda *work: graphs_made.append(record(*work)) or graphs_made[-1])
    recorded = list(generate(model, prompts, decoding))
    monkeypatch.setattr(graphs, "record", refuse)
    as_they_are = list(generate(model, prompts, decoding))

    assert [type(graph) for graph in graphs_made] == [torch.cuda.CUDAGraph]
    assert recorded == as_they_are


def test_fp16_tokens_of_fixed_and_growing_steps_differ_by_rounding_alone():
    difference = first_difference(make_workload(make_model("small", CARD, torch.float16), "small", 1, 256))

    assert difference is None or difference.gap < 8


@pytest.mark.parametrize("options", MODES)
def test_recorded_steps_wait_for_nothing_but_their_tokens(whole, options):
    prompts = make_workload(whole, "small", 2, 1).prompts
    steps = generate(whole, prompts, Decoding((20, 20), frozenset(), **options))
    for _ in range(4):
        next(steps)

    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nf4_answers_of_fixed_steps_are_those_of_growing_ones():
    engine = load("tiny", device="cuda", load_4bit=True)
    ids = engine.tokenizer("USER: What color is it? ASSISTANT:")["input_ids"]
    decoding = Decoding((20,), frozenset())

    fixed, growing = (
        list(generate_behind(engine.model, new_cache(engine.model.config), [Rest(ids)], decoding, steps))
        for steps in (Steps.FIXED, Steps.GROWING)
    )

    assert fixed == growing
