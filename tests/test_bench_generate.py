"""`scripts/bench generate` and `scripts/bench gpu`, each with one run of a small model on the CPU."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import bench
import pytest
import torch
from benchmarks import card, generate, gpu

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = Namespace(geometry="mini", runs=1, batches=[1, 2], new_tokens=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return generate.make_model("mini", CPU, torch.float32)


def test_generate_tells_every_side_at_every_number_of_answers(capsys):
    options = ["--device", "cpu", "--geometry", "mini", "--runs", "1", "--batches", "1", "2", "--new-tokens", "4"]

    bench.main(["generate", *options, "--json"])

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    sides = ["dynamic decode", "static decode", "model.generate"]
    assert [(row["batch"], row["side"]) for row in rows] == [(batch, side) for batch in (1, 2) for side in sides]
    for row in rows:
        (rate,), (first,) = row["tokens_per_second"], row["first_seconds"]
        assert 1 < rate < 1e6
        assert 0 < first < 60
        reference = next(each for each in rows if (each["batch"], each["side"]) == (row["batch"], "model.generate"))
        assert row["ratio"] == rate / reference["tokens_per_second"][0]


def test_gpu_tells_limits_rates_shares_and_equality():
    facts = {fact.name: fact for fact in gpu.measure_card(CPU, OPTIONS)}

    assert facts["memory, reading"].value > 0 < facts["memory, copying"].value
    for number_format in ("fp32", "nf4"):
        for batch in (1, 2):
            ours, other = (
                facts[f"{number_format}, {batch} at once, {side}"] for side in ("ours, static decode", "model.generate")
            )
            assert ours.against == pytest.approx(ours.value / other.value)
            assert 0 < ours.share < 1
            assert 0 < facts[f"{number_format}, {batch} at once, ours, static decode, first token"].share < 1
    assert facts["static and dynamic decode, equal tokens of 256"].value == 256
    assert facts["weights, nf4"].value < facts["weights"].value
    assert facts["one MLP layer, 1 tokens, nf4"].unit == "us"


def test_gpu_without_bitsandbytes_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    *_, last = gpu.measure_card(CPU, Namespace(**vars(OPTIONS) | {"batches": []}))

    assert (last.name, last.value, last.unit) == ("nf4", None, "not measured: bitsandbytes is not installed")


def test_neither_table_needs_what_a_lent_machine_lacks():
    forbidden = "av", "bitsandbytes", "prompt_toolkit", "textual_image"
    code = f"""
import sys
sys.path[:0] = ["scripts", "."]
from benchmarks import generate, gpu
print([name for name in {forbidden} if name in sys.modules])
"""

    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert said.strip() == "[]"


def test_step_reads_each_weight_of_the_language_model_and_the_cache(model):
    text = model.config.get_text_config()
    matrices = 4 * 64 * 64 + 3 * 64 * 128  # attention, MLP
    weights = 2 * (matrices + 2 * 64) + 64 * text.vocab_size

    assert card.step_bytes(model, num_rows=3, num_tokens=10) == 4 * (weights + 3 * 10 * 2 * 2 * 64)


def test_prefill_of_the_7b_takes_two_operations_a_weight_and_token():
    with torch.device("meta"):
        model = generate.make_model("7b", torch.device("meta"), torch.float16)

    flops = card.prefill_flops(model, 2064)

    # 6.5e9 weights in linear layers, 0.3e9 in a tower of as many tokens; attention adds 3 %.
    assert flops == pytest.approx(2 * 2064 * (6.476e9 + 0.303e9 + 0.021e9) * 1.04, rel=0.02)


def test_difference_is_found_with_its_gap(model):
    workload = generate.make_workload(model, "mini", 1, 6)
    ids = [step[0] for step in workload.generate("dynamic")]

    assert generate.first_difference(workload) is None
    difference = generate.difference_of(workload, [*ids[:3], (ids[3] + 1) % 500, *ids[4:]], ids)

    assert difference.at_token == 3
    assert difference.gap > 100
