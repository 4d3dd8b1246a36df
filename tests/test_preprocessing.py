"""Pixels equal those of transformers' own image processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import VideoLlavaImageProcessor

from videollava_cli.errors import CheckpointError
from videollava_cli.preprocessing import (
    Fit,
    PixelSettings,
    pixel_values,
    resize_frame,
    resize_image,
    resized_shape,
    seen_box,
    to_model,
)

CONFIG = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SETTINGS = PixelSettings.from_config(CONFIG)
sides = st.integers(1, 400)


def picture(height, width, *, seed=0):
    """Draw noise over a ramp: hard edges and smooth parts."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    noise = rng.integers(0, 256, (height, width, 3))
    return np.where(rng.random((height, width, 1)) < 0.3, noise, ramp).astype(np.uint8)


def transformers_levels(rgb, crop_side=224, shortest_edge=224):
    """Return what transformers makes of a picture before it rescales: (S, S, 3)."""
    processor = VideoLlavaImageProcessor(size={"shortest_edge": shortest_edge}, crop_size=crop_side)
    made = processor(images=rgb, do_rescale=False, do_normalize=False, return_tensors="np")
    return next(iter(made.values()))[0].transpose(1, 2, 0)


def transformers_values(rgb):
    """Return the pixel values that transformers makes of a picture: float32, (3, 224, 224)."""
    made = VideoLlavaImageProcessor()(images=rgb, input_data_format="channels_last", return_tensors="np")
    return next(iter(made.values()))[0]


@settings(max_examples=25)
@given(height=sides, width=sides)
@example(height=224, width=224)
@example(height=225, width=224)
@example(height=480, width=853)
@example(height=853, width=480)
@example(height=30, width=400)
@example(height=1, width=3)
def test_pixel_values_of_an_image_equal_those_of_transformers_bit_for_bit(height, width):
    rgb = picture(height, width)

    ours = pixel_values(to_model(rgb, SETTINGS, resize_image), SETTINGS)

    assert ours.dtype == torch.float32
    assert np.array_equal(ours.numpy(), transformers_values(rgb))


@settings(max_examples=25)
@given(height=st.integers(20, 400), width=st.integers(20, 400))
@example(height=360, width=640)
@example(height=224, width=224)
@example(height=227, width=400)
def test_frames_are_at_most_two_levels_from_transformers_image_processor(height, width):
    rgb = picture(height, width)

    levels = to_model(rgb, SETTINGS, resize_frame).astype(int)

    assert np.abs(levels - transformers_levels(rgb)).max() <= 2


def test_frames_are_rgb_levels_of_the_models_side():
    levels = to_model(picture(48, 64), SETTINGS, resize_frame)

    assert (levels.shape, levels.dtype) == ((224, 224, 3), np.uint8)


def padded_to_square(rgb):
    """Pad a picture as LLaVA's expand2square does: centred, over the mean colour rounded down."""
    height, width = rgb.shape[:2]
    side = max(height, width)
    square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in SETTINGS.mean))
    square.paste(Image.fromarray(rgb), ((side - width) // 2, (side - height) // 2))
    return np.array(square)


@settings(max_examples=25)
@given(height=st.integers(4, 400), width=st.integers(4, 400))
@example(height=360, width=640)
@example(height=640, width=361)
@example(height=224, width=224)
@example(height=4, width=400)
def test_padded_pictures_equal_transformers_on_a_padded_square_and_frames_within_two_levels(height, width):
    rgb = picture(height, width)
    settings = replace(SETTINGS, fit=Fit.PAD)

    reference = transformers_levels(padded_to_square(rgb))

    assert np.array_equal(to_model(rgb, settings, resize_image), reference)
    assert np.abs(to_model(rgb, settings, resize_frame).astype(int) - reference).max() <= 2


@settings(max_examples=25)
@given(height=st.integers(20, 400), width=st.integers(20, 400))
@example(height=360, width=640)
def test_stretched_pictures_equal_pillows_and_frames_within_two_levels_width_first(height, width):
    rgb = picture(height, width)
    settings = replace(SETTINGS, fit=Fit.STRETCH)

    whole = Image.fromarray(rgb).resize((224, 224), Image.Resampling.BICUBIC)
    rows = Image.fromarray(rgb).resize((224, height), Image.Resampling.BICUBIC)
    in_turn = np.asarray(rows.resize((224, 224), Image.Resampling.BICUBIC)).astype(int)

    assert np.array_equal(to_model(rgb, settings, resize_image), np.asarray(whole))
    assert np.abs(to_model(rgb, settings, resize_frame) - in_turn).max() <= 2


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(1080, 1920, (420, 0, 1500, 1080)), (640, 480, (0, 79, 480, 561)), (9, 9, (0, 0, 9, 9))],
)
def test_seen_part_of_a_cropped_picture_is_its_centre_square(height, width, box):
    assert seen_box(height, width, SETTINGS) == box


@pytest.mark.parametrize("fit", [Fit.PAD, Fit.STRETCH])
def test_seen_part_of_a_padded_or_stretched_picture_is_all_of_it(fit):
    assert seen_box(1080, 1920, replace(SETTINGS, fit=fit)) == (0, 0, 1920, 1080)


def test_crop_smaller_than_the_resized_picture_takes_its_centre():
    config = CONFIG | {"size": {"shortest_edge": 60}, "crop_size": {"height": 45, "width": 45}}
    rgb = picture(90, 133)

    levels = to_model(rgb, PixelSettings.from_config(config), resize_image)

    assert np.array_equal(levels, transformers_levels(rgb, crop_side=45, shortest_edge=60))


def test_pixel_values_of_every_level_equal_those_of_transformers():
    levels = np.resize(np.arange(256, dtype=np.uint8), (224, 224))
    rgb = np.stack([levels, levels[::-1], levels.T], axis=-1)

    assert np.array_equal(pixel_values(rgb, SETTINGS).numpy(), transformers_values(rgb))


def test_pixel_values_of_a_clip_are_those_of_its_frames():
    clip = np.stack([picture(32, 32, seed=seed) for seed in range(8)])

    values = pixel_values(clip, SETTINGS)

    assert values.shape == (8, 3, 32, 32)
    assert all(torch.equal(values[k], pixel_values(clip[k], SETTINGS)) for k in range(8))


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(480, 640, (224, 298)), (640, 480, (298, 224)), (100, 100, (224, 224)), (1080, 1920, (224, 398))],
)
def test_shorter_edge_takes_the_side_and_the_longer_one_is_rounded_down(height, width, shape):
    assert resized_shape(height, width, 224) == shape


def test_plain_numbers_serve_for_sizes_as_older_configs_have_them():
    assert PixelSettings.from_config(CONFIG | {"size": 224, "crop_size": 224}) == SETTINGS


def test_rescale_factor_is_that_of_eight_bits_unless_the_config_says_otherwise():
    config = {key: value for key, value in CONFIG.items() if key != "rescale_factor"}

    assert PixelSettings.from_config(config).scale == 1 / 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "unsupported image processor: do_resize is not as in Video-LLaVA"),
        ({"do_center_crop": False}, "unsupported image processor: do_center_crop is not as in Video-LLaVA"),
        ({"do_rescale": False}, "unsupported image processor: do_rescale is not as in Video-LLaVA"),
        ({"do_normalize": False}, "unsupported image processor: do_normalize is not as in Video-LLaVA"),
        ({"resample": 2}, "unsupported image processor: resample is not as in Video-LLaVA"),
        ({"crop_size": {"height": 336}}, "the image processor crops to 336 pixels from 224"),
        ({"crop_size": 0}, "the image processor crops to 0 pixels from 224"),
        ({"image_mean": [0.5]}, "the image processor's settings are incomplete: "),
        ({"image_std": "a"}, "the image processor's settings are incomplete: "),
        ({"size": None}, "the image processor's settings are incomplete: "),
        ({"size": {"height": 224}}, "the image processor's settings are incomplete: 'shortest_edge'"),
    ],
)
def test_config_of_another_kind_of_image_processor_is_refused(change, message):
    with pytest.raises(CheckpointError) as refusal:
        PixelSettings.from_config(CONFIG | change)

    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("key", ["size", "crop_size", "image_mean", "image_std"])
def test_config_without_a_needed_key_is_refused_by_its_name(key):
    config = {other: value for other, value in CONFIG.items() if other != key}

    with pytest.raises(CheckpointError, match=f"settings are incomplete: '{key}'"):
        PixelSettings.from_config(config)
