"""Checkpoints found and loaded, prompts checked, answers streamed, from Python."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration, VideoLlavaImageProcessor

from videollava_cli import load
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER, find_checkpoint
from videollava_cli.engine.loading import check_machine
from videollava_cli.errors import CheckpointError, MediaError, UsageError
from videollava_cli.sampling import Window
from videollava_cli.settings import presets_folder, resolve

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLIP = EXAMPLES / "circle-moves-right.mp4"
PROJECTOR = "multi_modal_projector.linear_1.weight"


def settings_of(**flags):
    return resolve(flags, presets=presets_folder())


@pytest.fixture
def copied(tmp_path):
    """Copy the bundled checkpoint to a folder of its own."""
    return Path(shutil.copytree(BUNDLED_FOLDER / "tiny", tmp_path / "copied"))


def test_engine_holds_transformers_own_model_and_config(tiny):
    assert type(tiny.model) is VideoLlavaForConditionalGeneration
    assert type(tiny.model.config) is VideoLlavaConfig


def test_forward_of_the_loaded_model_takes_what_the_image_processor_gives(tiny):
    processor = VideoLlavaImageProcessor.from_pretrained(tiny.checkpoint.folder)
    pixels = processor([np.zeros((60, 80, 3), np.uint8)], return_tensors="pt", return_legacy_image_output=False)
    ids = tiny.tokenizer("USER: " + "<image>" * 16 + "\nWhat is this? ASSISTANT:", return_tensors="pt")

    with torch.inference_mode():
        logits = tiny.model(**ids, pixel_values=pixels["pixel_values"]).logits

    assert logits.shape == (1, ids["input_ids"].shape[1], len(tiny.tokenizer))


def test_counts_from_the_small_files_are_those_of_transformers_config(tiny):
    config = tiny.model.config

    assert tiny.checkpoint.tokens_per_video == config.video_seq_length
    assert tiny.checkpoint.tokens_per_image == config.image_seq_length
    assert tiny.checkpoint.image_token_id == config.image_token_id
    assert tiny.checkpoint.context_length == config.text_config.max_position_embeddings


def test_streamed_chunks_end_with_reason_and_usage(tiny):
    tiny.clear_cache()  # other files of tests ask it, too

    chunks = list(tiny.ask([CLIP], "What happens?"))

    last = chunks[-1]
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (last.finish_reason, last.usage.cached_tokens) == ("stop", 0)
    assert last.usage.prompt_tokens == len(tiny.tokenizer("USER: <video>\nWhat happens? ASSISTANT:")["input_ids"]) + 135
    assert last.usage.new_tokens == len(
        tiny.tokenizer("".join(c.text for c in chunks), add_special_tokens=False).input_ids
    )


def test_answer_that_reaches_its_budget_ends_by_length(tiny):
    chunks = list(tiny.ask([CLIP], "What happens?", max_new_tokens=2))

    assert (chunks[-1].finish_reason, chunks[-1].usage.new_tokens) == ("length", 2)


def test_answer_never_outgrows_the_context(small):
    room_for_question = 4096 - 40
    tokens_a_word = len(small.tokenizer("moves moves").input_ids) - len(small.tokenizer("moves").input_ids)

    chunks = list(small.ask([], "moves " * (room_for_question // tokens_a_word), max_new_tokens=500))

    assert chunks[-1].usage.prompt_tokens > 4000
    assert chunks[-1].usage.prompt_tokens + chunks[-1].usage.new_tokens <= 4096


def test_prompt_beyond_the_context_names_the_numbers(tiny):
    medium = tiny.read(str(CLIP), Window())

    with pytest.raises(UsageError, match=r"2[78]\d tokens \(272 of them for 2 media\).* holds 256"):
        list(tiny.ask([medium, medium], "What happens?"))


def test_placeholder_in_a_question_is_only_a_word(tiny):
    answer = list(tiny.ask([CLIP], "What happens in the <video>, <image> and </s>?"))

    assert answer[-1].finish_reason == "stop"


def test_media_are_seen_in_the_order_of_their_placeholders(small):
    image, clip = parity.random_image(small, rng := np.random.default_rng(3)), parity.random_clip(small, rng)

    one_way, other_way = (
        [c.text for c in small.ask(m, "Hi", max_new_tokens=8)] for m in ((image, clip), (clip, image))
    )

    assert one_way != other_way


def test_closing_an_answer_stops_the_model(small):
    calls = []
    handle = small.model.register_forward_hook(lambda *_: calls.append(1))
    chunks = small.ask([], "What moves?", max_new_tokens=400)

    next(chunks)
    chunks.close()
    handle.remove()

    assert len(calls) < 10


def test_missing_clip_is_a_media_error(tiny):
    with pytest.raises(MediaError, match="no such file"):
        tiny.ask(["nowhere.mp4"], "What happens?")


def test_unknown_option_suggests_the_right_one():
    with pytest.raises(UsageError, match=r"unknown setting 'load_4bits'.*did you mean 'load_4bit'"):
        load("tiny", load_4bits=True)


@pytest.mark.parametrize(("options", "dtype"), [({}, torch.float32), ({"dtype": "bfloat16"}, torch.bfloat16)])
def test_four_bits_are_nf4_and_compute_on_the_cpu_in_the_type_of_the_model(options, dtype):
    engine = load("tiny", device="cpu", load_4bit=True, **options)

    layer = engine.model.model.language_model.layers[0].mlp.up_proj
    assert (layer.weight.quant_type, layer.compute_dtype, engine.model.dtype) == ("nf4", dtype, dtype)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"attn_implementation": "flash_attention_2", "device": "cpu"}, "needs a CUDA GPU"),
        ({"attn_implementation": "flash_attention_2", "dtype": "float32"}, "needs float16 or bfloat16"),
        ({"load_8bit": True, "device": "cpu"}, "8-bit weights need a CUDA GPU"),
        ({"device": "toaster"}, "device is 'toaster'"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        check_machine(settings_of(model="tiny", **flags))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no CUDA GPU")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(UsageError, match="finds no CUDA GPU"):
        check_machine(settings_of(model="tiny", device="cuda"))


def test_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        find_checkpoint(settings_of(model=str(tmp_path)))


def test_checkpoint_of_another_model_is_refused(copied):
    (copied / "config.json").write_text(json.dumps({"model_type": "llava"}))

    with pytest.raises(CheckpointError, match="is a 'llava' model"):
        find_checkpoint(settings_of(model=str(copied)))


def test_checkpoint_without_weights_names_the_missing_file(copied):
    (copied / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"has no weights model\.safetensors"):
        load(str(copied))


def test_missing_shard_is_named(copied):
    (copied / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}})
    )

    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        load(str(copied))


def rewritten_weights(folder, change):
    """Rewrite a checkpoint's weights after changing the dict of its tensors, named as in the file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_checkpoint_that_lacks_a_tensor_is_refused_by_its_name(copied):
    rewritten_weights(copied, lambda tensors: tensors.pop(PROJECTOR))

    with pytest.raises(CheckpointError, match=r"are incomplete: model\.multi_modal_projector.* is missing"):
        load(str(copied))


def test_tensor_of_a_wrong_shape_is_a_checkpoint_error(copied):
    rewritten_weights(copied, lambda tensors: tensors.update({PROJECTOR: torch.zeros(3, 5)}))

    with pytest.raises(CheckpointError, match="cannot load the weights"):
        load(str(copied))


def test_config_that_makes_no_sense_is_a_checkpoint_error(copied):
    config = json.loads((copied / "config.json").read_text())
    config["vision_config"]["patch_size"] = 0
    (copied / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"config\.json of .* makes no sense"):
        load(str(copied))


def test_revision_of_what_is_no_hub_id_is_refused():
    with pytest.raises(UsageError, match="revision is 'main', and 'tiny' is no hub id"):
        load("tiny", revision="main")


def test_options_of_one_answer_are_checked(tiny):
    with pytest.raises(UsageError, match="'temprature' cannot be set for one answer; did you mean 'temperature'"):
        tiny.ask([CLIP], "What happens?", temprature=0.5)
    with pytest.raises(UsageError, match="'device' cannot be set for one answer"):
        tiny.ask([CLIP], "What happens?", device="cpu")


def test_window_of_one_answer_chooses_the_frames(tiny):
    seen = []
    engine = dataclasses.replace(tiny, read=lambda source, window: seen.append(window) or tiny.read(source, window))

    engine.ask([CLIP], "What happens?", start=1.0, end=2.0)

    assert seen == [Window(1.0, 2.0)]


def test_damaged_weights_are_a_checkpoint_error(copied):
    (copied / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")

    with pytest.raises(CheckpointError, match="cannot load the weights"):
        load(str(copied))


def test_damaged_tokenizer_is_a_checkpoint_error(copied):
    (copied / "tokenizer.json").write_text("{")

    with pytest.raises(CheckpointError, match="cannot read the tokenizer"):
        load(str(copied))


def test_settings_of_a_combined_processor_file_are_read(copied, tiny):
    combined = {"image_processor": json.loads((copied / "preprocessor_config.json").read_text())}
    (copied / "processor_config.json").write_text(json.dumps(combined))
    (copied / "preprocessor_config.json").unlink()

    assert find_checkpoint(settings_of(model=str(copied))).pixels == tiny.checkpoint.pixels


def test_hub_id_that_is_not_cached_is_told_offline():
    with pytest.raises(CheckpointError, match="offline, and 'nobody/nothing' is not in the local cache"):
        find_checkpoint(settings_of(model="nobody/nothing", offline=True))


def test_checkpoint_is_found_in_the_hub_cache_offline(copied, tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--someone--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(copied, cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    engine = load("someone/tiny", offline=True)

    assert engine.checkpoint.hub_id == "someone/tiny"
