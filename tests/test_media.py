"""The nouns refuse impossible values."""

import numpy as np
import pytest

from videollava_cli.media import FrameStamp, MediaKind, Medium


def test_frame_stamp_refuses_a_negative_index():
    with pytest.raises(ValueError, match="negative frame index: -1"):
        FrameStamp(-1, 0.0)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (4, 4, 3), (1, 4, 4, 4)])
def test_video_refuses_what_is_no_stack_of_rgb_frames_with_a_stamp_each(shape):
    with pytest.raises(ValueError, match="no video: pixels of shape"):
        Medium("a", MediaKind.VIDEO, np.zeros(shape, np.uint8), (FrameStamp(0, 0.0),))


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 4, 4, 4), (2, 4, 4, 3), (4, 4, 3)])
def test_image_refuses_what_is_no_single_rgb_picture(shape):
    with pytest.raises(ValueError, match="no image: pixels of shape"):
        Medium("a", MediaKind.IMAGE, np.zeros(shape, np.uint8))


def test_digest_is_that_of_the_pixels_alone():
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)

    assert Medium("a", MediaKind.IMAGE, pixels).digest == Medium("b", MediaKind.IMAGE, pixels.copy()).digest
    assert Medium("a", MediaKind.IMAGE, pixels).digest != Medium("a", MediaKind.IMAGE, pixels + 1).digest
