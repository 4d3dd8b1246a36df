"""Estimates of memory: what weights, KV cache and activations take, the same for every part that asks."""

import pytest

from videollava_cli.engine.checkpoint import ModelSize, TextShape, model_size, needed_memory, weight_bytes
from videollava_cli.generation import bytes_per_token
from videollava_cli.settings import presets_folder, resolve

SEVEN_B = ModelSize(14_740_000_000, TextShape(), 2056, 4096)
GIB = 2**30


def settings_of(**flags):
    return resolve({"model": "tiny", **flags}, presets=presets_folder())


@pytest.mark.parametrize(
    ("flags", "gib"),
    [({}, 13.73), ({"load_4bit": True}, 4.21), ({"load_8bit": True}, 7.52), ({"dtype": "float32"}, 27.46)],
)
def test_weights_of_the_7b_follow_from_their_files_and_the_bits_of_a_number_embeddings_unquantized(flags, gib):
    settings = settings_of(**flags)
    bits = 32 if settings.dtype == "float32" else 16

    assert needed_memory(SEVEN_B, settings, bits).weights / GIB == pytest.approx(gib, abs=0.01)


def test_answer_of_the_7b_takes_half_a_mebibyte_a_token_one_layer_twice_and_its_prompt_at_once():
    settings = settings_of(max_new_tokens=512)

    need = needed_memory(SEVEN_B, settings, 16)

    assert need.cache == (2056 + 128 + 512) * (1 << 19) * 33 // 32
    assert need.activations == (2056 + 128) * (12 * 4096 + 3 * 11008) * 2
    assert need.total == need.weights + need.answer


def test_answer_is_counted_to_the_end_of_the_context_only():
    longest = needed_memory(SEVEN_B, settings_of(max_new_tokens=1 << 20), 16)

    assert longest.cache == 4096 * (1 << 19) * 33 // 32


@pytest.mark.parametrize("name", ["tiny", "small", "mini"])
def test_kv_cache_is_estimated_from_the_small_files_as_the_loaded_model_has_it(name, request):
    engine = request.getfixturevalue(name)
    shape, bits = engine.checkpoint.shape, engine.model.dtype.itemsize * 8

    num_bytes = shape.cache_bytes(1000, bits)

    assert num_bytes == 1000 * bytes_per_token(engine.model) * (shape.num_layers + 1) // shape.num_layers


def test_size_of_a_checkpoint_is_that_of_its_files_and_its_longest_medium(tiny):
    size = model_size(tiny.checkpoint)

    assert (size.published_bytes, size.clip_tokens) == (weight_bytes(tiny.checkpoint), 136)
