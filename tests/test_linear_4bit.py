"""4-bit weights on a CPU: packed and dequantized as bitsandbytes does it, and prompts run as it would, to rounding."""

import copy

import pytest
import torch
from bitsandbytes.functional import QuantState, _convert_weight_packed_for_cpu, dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli import load
from videollava_cli.engine.linear_4bit import MIN_ROWS, PackedLinear4bit, dequantized, is_packable, pack_layers, packed

SHAPES = [(32, 64), (96, 192), (128, 64)]
has_kernel = pytest.mark.skipif(
    not Linear4bit(64, 64).support_avx512bf16_for_cpu, reason="bitsandbytes packs weights on AVX-512 BF16 only"
)


@pytest.fixture
def mini_4bit(mini):
    """Load random weights in 4 bits, as they run in bfloat16."""
    return load(str(mini.checkpoint.folder), device="cpu", dtype="bfloat16", load_4bit=True, cache=False).model


def logits_of(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids).logits.float()


def with_plain_weights(model):
    """Return the language model in float32, with the 4-bit weights dequantized."""
    plain = VideoLlavaForConditionalGeneration(model.config).eval()
    for name, layer in model.named_modules():
        copied = plain.get_submodule(name)
        for key, parameter in layer.named_parameters(recurse=False):
            state = getattr(parameter, "quant_state", None)
            getattr(copied, key).data = (dequantized(parameter.data, state) if state else parameter.data).float()
    return plain


def quantized(num_rows, num_columns, **how):
    weight = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(0))
    return quantize_4bit(weight.to(torch.bfloat16), quant_type="nf4", **how)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_weights_are_packed_as_bitsandbytes_packs_them(shape, storage):
    weight, state = quantized(*shape, quant_storage=storage)
    expected, expected_state = _convert_weight_packed_for_cpu(weight, copy.deepcopy(state))

    assert torch.equal(packed(weight, state), expected)
    assert torch.equal(state.absmax, expected_state.absmax)
    assert {name: repr(value) for name, value in vars(state).items()} == {
        name: repr(value) for name, value in vars(expected_state).items()
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_weights_are_dequantized_to_what_they_were_with_scales_of_16_bits(shape):
    weight, state = quantized(*shape)
    scales = state.absmax.to(torch.bfloat16).float()
    plain = QuantState(scales, state.shape, state.code, state.blocksize, state.quant_type, torch.bfloat16)

    assert torch.equal(dequantized(packed(weight, state), state), dequantize_4bit(weight, plain))


@pytest.mark.parametrize(
    ("shape", "how", "expected"),
    [
        ((32, 64), {}, True),
        ((48, 64), {}, False),
        ((32, 96), {}, False),
        ((32, 64), {"compress_statistics": True}, False),
    ],
)
def test_only_whole_blocks_with_plain_scales_are_packed(shape, how, expected):
    assert is_packable(quantized(*shape, **how)[1]) is expected


@has_kernel
@pytest.mark.parametrize("num_rows", [1, MIN_ROWS - 1, MIN_ROWS, 300])
@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_gives_the_product_of_its_dequantized_weight(num_rows, has_bias):
    layer = Linear4bit(
        192, 96, bias=has_bias, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=False
    )
    layer = layer.to("cpu").eval().requires_grad_(requires_grad=False)
    x = torch.randn(1, num_rows, 192, generator=torch.Generator().manual_seed(1)).bfloat16()
    model = torch.nn.Sequential(layer)
    pack_layers(model)

    result = model(x)

    exact = x.double() @ dequantized(layer.weight.data, layer.weight.quant_state).double().T
    exact += layer.bias.double() if has_bias else 0
    assert (type(layer), result.dtype, result.shape) == (PackedLinear4bit, x.dtype, (1, num_rows, 96))
    assert (result.double() - exact).abs().max() <= exact.abs().max() / 128  # bfloat16 has eight bits


@has_kernel
def test_prompt_runs_as_on_bitsandbytes_own_way_within_rounding(mini_4bit):
    """Teacher-forced: the logits of every token, ours and bitsandbytes', beside those without rounding."""
    ids = torch.randint(10, 200, (1, 2 * MIN_ROWS), generator=torch.Generator().manual_seed(2))
    ours = logits_of(mini_4bit, ids)
    layers = [layer for layer in mini_4bit.modules() if type(layer) is PackedLinear4bit]
    exact = logits_of(with_plain_weights(mini_4bit), ids)

    for layer in layers:
        layer.__class__ = Linear4bit
    theirs = logits_of(mini_4bit, ids)

    assert layers
    assert not torch.equal(ours, theirs)  # so two ways have run
    assert (ours - exact).abs().mean() <= 1.1 * (theirs - exact).abs().mean()
    assert (ours.argmax(-1) == exact.argmax(-1)).float().mean() > 0.95
