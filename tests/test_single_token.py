"""Decode steps of one token a row in bfloat16 on a CPU: other products, the same numbers to rounding."""

from contextlib import nullcontext

import pytest
import torch
from container import enter_container
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from videollava_cli import load
from videollava_cli.engine.model_access import SingleTokenStep

PROMPT, STEPS = 40, 12
WITH_TILES, WITHOUT = "flags : avx512_bf16 amx_bf16\n", "flags : avx512_bf16\n"


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.fixture
def bfloat16(mini):
    """Load random weights in bfloat16."""
    return load(str(mini.checkpoint.folder), device="cpu", dtype="bfloat16")


def decoded(model, ids, mode=None):
    """Run a prompt, then one token a step; return the logits of the steps, float32, (steps, vocab)."""
    with torch.inference_mode():
        cache = model(input_ids=ids[:, :PROMPT], use_cache=True).past_key_values
        logits = []
        for place in range(PROMPT, ids.shape[1]):
            with mode() if mode else nullcontext():
                logits.append(model(input_ids=ids[:, place : place + 1], past_key_values=cache).logits[0, 0].float())
    return torch.stack(logits)


def test_steps_are_as_near_to_float32_as_torchs_own(mini, bfloat16):
    ids = torch.randint(10, 200, (1, PROMPT + STEPS), generator=torch.Generator().manual_seed(0))

    ours, torchs = decoded(bfloat16.model, ids, SingleTokenStep), decoded(bfloat16.model, ids)

    exact = decoded(mini.model, ids)
    assert not torch.equal(ours, torchs)  # so two ways have run
    assert (ours - exact).abs().mean() <= 1.1 * (torchs - exact).abs().mean()


@pytest.mark.parametrize(("cpuinfo", "is_used"), [(WITH_TILES, False), (WITHOUT, True)])
def test_engine_runs_steps_so_where_the_processor_has_no_tiles(mini, tmp_path, monkeypatch, cpuinfo, is_used):
    enter_container(tmp_path, monkeypatch)
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    engine = load(str(mini.checkpoint.folder), device="cpu", dtype="bfloat16")
    chunks = engine.ask([], "What happens?", max_new_tokens=STEPS)
    next(chunks)

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        list(chunks)

    assert ("aten::mv" in {event.key for event in profiled.key_averages()}) is is_used


@pytest.mark.parametrize("num_rows", [1, 3])
def test_product_is_right_for_one_row_and_for_several(num_rows):
    x, weight, bias = random(num_rows, 1, 256), random(96, 256, seed=1), random(96, seed=2)

    with SingleTokenStep():
        result = linear(x, weight, bias)

    exact = linear(x.double(), weight.double(), bias.double())
    assert (result.dtype, result.shape) == (torch.bfloat16, (num_rows, 1, 96))
    assert (result.double() - exact).abs().max() <= exact.abs().max() / 128


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_of_rows_behind_masks_is_torchs(mask, scale):
    query, key, value = random(3, 4, 1, 32), random(3, 4, 50, 32, seed=1), random(3, 4, 50, 32, seed=2)
    seen = torch.rand(3, 1, 1, 50, generator=torch.Generator().manual_seed(3)) < 0.7
    added = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
    how = {"attn_mask": {None: None, "bool": seen, "float": added}[mask], "scale": scale}

    with SingleTokenStep():
        result = scaled_dot_product_attention(query, key, value, **how)

    exact = scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=None if mask is None else seen, scale=scale
    )
    assert (result.dtype, result.shape) == (torch.bfloat16, query.shape)
    assert (result.double() - exact).abs().max() <= exact.abs().max() / 64


def test_switch_of_the_process_is_as_before_after_a_product_that_fails():
    with SingleTokenStep(), pytest.raises(RuntimeError):
        linear(random(1, 8), random(4, 9))

    assert torch._C._get_mkldnn_enabled()
