"""The nouns refuse impossible values."""

import numpy as np
import pytest

from videollava_cli.media import Clip, FrameStamp, Image, MediaKind


def test_clip_is_a_video_and_image_is_an_image():
    clip = Clip("a", np.zeros((1, 2, 2, 3), np.uint8), (FrameStamp(0, 0.0),))
    image = Image("b", np.zeros((2, 2, 3), np.uint8))

    assert (clip.kind, image.kind) == (MediaKind.VIDEO, MediaKind.IMAGE)


def test_frame_stamp_refuses_a_negative_index():
    with pytest.raises(ValueError, match="negative frame index: -1"):
        FrameStamp(-1, 0.0)


def test_clip_refuses_frames_without_a_stamp_each():
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4, 3\), 1 stamps"):
        Clip("a", np.zeros((2, 4, 4, 3), np.uint8), (FrameStamp(0, 0.0),))


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 4)])
def test_clip_refuses_what_is_no_stack_of_rgb_frames(shape):
    with pytest.raises(ValueError, match="not frames with stamps"):
        Clip("a", np.zeros(shape, np.uint8), (FrameStamp(0, 0.0),))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (1, 4, 4, 3)])
def test_image_refuses_what_is_no_rgb_picture(shape):
    with pytest.raises(ValueError, match="not an RGB picture"):
        Image("a", np.zeros(shape, np.uint8))
