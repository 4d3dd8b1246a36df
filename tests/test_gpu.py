"""What needs a CUDA card: numbers in fp16, 8 bits, placement. Run it there with `scripts/test -m gpu`."""

import parity
import pytest
import torch

from videollava_cli import load

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
