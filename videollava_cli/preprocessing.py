"""Pictures to pixel values, by a checkpoint's own settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from videollava_cli.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Resize = Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[np.uint8]]

BICUBIC = 3  # PIL.Image.Resampling.BICUBIC, as it stands in preprocessor_config.json


class Fit(StrEnum):
    """How a picture that is no square becomes one."""

    CROP = "crop"  # the centre square, as VideoLlavaImageProcessor does
    PAD = "pad"  # the whole picture, with the mean colour above and below it or beside it
    STRETCH = "stretch"  # the whole picture, out of proportion


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """The image processor's settings that matter: sides in pixels, then scale, mean and std of RGB."""

    resize_side: int
    crop_side: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = Fit.CROP  # no setting of the checkpoint but the user's

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PixelSettings":
        """Read the settings from the content of `preprocessor_config.json`.

        Raises CheckpointError if a setting is missing, or asks for what `VideoLlavaImageProcessor` does not do by
        default: shortest edge, bicubic, centre crop, rescale, normalize.
        """
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        unusual = [step for step in steps if not config.get(step, True)]
        if unusual or config.get("resample", BICUBIC) != BICUBIC:
            found = ", ".join(unusual) or "resample"
            raise CheckpointError(f"unsupported image processor: {found} is not as in Video-LLaVA")
        try:
            size, crop = config["size"], config["crop_size"]
            resize_side = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
            crop_side = int(crop["height"] if isinstance(crop, Mapping) else crop)
            mean, std = _triple(config["image_mean"]), _triple(config["image_std"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the image processor's settings are incomplete: {error}") from error
        if not 0 < crop_side <= resize_side:
            raise CheckpointError(f"the image processor crops to {crop_side} pixels from {resize_side}")
        return cls(resize_side, crop_side, float(config.get("rescale_factor", 1 / 255)), mean, std)


def resized_shape(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the height and width after bringing the shorter edge to `side`, as transformers rounds them."""
    long = int(side * max(height, width) / min(height, width))
    return (long, side) if height >= width else (side, long)


def uncropped_shape(height: int, width: int, pixels: PixelSettings) -> tuple[int, int]:
    """Return the height and width that a picture takes before its centre is cropped to the model's side."""
    if pixels.fit is Fit.CROP:
        return resized_shape(height, width, pixels.resize_side)
    return pixels.crop_side, pixels.crop_side


def uncropped(rgb: "NDArray[np.uint8]", pixels: PixelSettings, resize: "Resize") -> "NDArray[np.uint8]":
    """Bring uint8 RGB, (H, W, 3), to `uncropped_shape`: the scale at which the model sees its centre."""
    if pixels.fit is Fit.PAD:
        return _padded(rgb, pixels, resize)
    return resize(rgb, uncropped_shape(rgb.shape[0], rgb.shape[1], pixels))


def seen_box(height: int, width: int, pixels: PixelSettings) -> tuple[int, int, int, int]:
    """Return the part of a picture that the model sees: left, top, right and bottom, in the picture's own pixels."""
    full_height, full_width = uncropped_shape(height, width, pixels)
    top, left = crop_offset(full_height, full_width, pixels.crop_side)
    across, down = width / full_width, height / full_height
    right, bottom = left + pixels.crop_side, top + pixels.crop_side
    return round(left * across), round(top * down), round(right * across), round(bottom * down)


def crop_offset(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the row and the column at which the central square of a side begins, as transformers rounds them."""
    return (height - side) // 2, (width - side) // 2


def to_model(rgb: "NDArray[np.uint8]", pixels: PixelSettings, resize: "Resize") -> "NDArray[np.uint8]":
    """Bring uint8 RGB, (H, W, 3), to the model's (S, S, 3); a cropped still is as from `VideoLlavaImageProcessor`.

    `resize` is `resize_image` for a still; for a frame of a video `resize_frame`, which is at most 2 levels from it and
    several times faster (`scripts/parity.py` measures the difference).
    """
    whole, side = uncropped(rgb, pixels, resize), pixels.crop_side
    top, left = crop_offset(whole.shape[0], whole.shape[1], side)
    return whole[top : top + side, left : left + side].copy()


def resize_image(rgb: "NDArray[np.uint8]", shape: tuple[int, int]) -> "NDArray[np.uint8]":
    """Resize a still picture to a height and width with Pillow, as `VideoLlavaImageProcessor` does."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).resize(shape[::-1], Image.Resampling.BICUBIC))


def resize_frame(rgb: "NDArray[np.uint8]", shape: tuple[int, int]) -> "NDArray[np.uint8]":
    """Resize a video frame as transformers' video processor does: antialiased bicubic on uint8, with torch."""
    import torch
    from torch.nn.functional import interpolate

    channels_last = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    with torch.inference_mode():
        resized = interpolate(channels_last, size=shape, mode="bicubic", antialias=True)
    levels: NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return levels


def pixel_values(rgb: "NDArray[np.uint8]", pixels: PixelSettings) -> "torch.Tensor":
    """Rescale and normalize uint8 RGB, (..., S, S, 3), to float32, (..., 3, S, S), as `VideoLlavaImageProcessor`."""
    import numpy as np
    import torch

    # Bit for bit: transformers multiplies in float64, rounds to float32, then normalizes in float32.
    levels = (np.arange(256, dtype=np.float64) * pixels.scale).astype(np.float32)[:, None]
    table = (levels - np.asarray(pixels.mean, np.float32)) / np.asarray(pixels.std, np.float32)
    planes = [table[:, channel][rgb[..., channel]] for channel in range(3)]
    return torch.from_numpy(np.stack(planes, axis=-3))


def _padded(rgb: "NDArray[np.uint8]", pixels: PixelSettings, resize: "Resize") -> "NDArray[np.uint8]":
    """Return a picture in the middle of a square of the mean colour, at the model's side.

    The levels are those of a square that is padded and then resized. As rows do not touch each other while they are
    made shorter, this one is never held at its full size.
    """
    import numpy as np

    (height, width), side = rgb.shape[:2], pixels.crop_side
    longer = max(height, width)
    above, beside = (longer - height) // 2, (longer - width) // 2
    mean = np.array([int(level * 255) for level in pixels.mean], np.uint8)  # rounded down, as LLaVA's expand2square
    square = np.full((longer, side, 3), mean)
    for top in range(0, height, side):
        rows = rgb[top : top + side]
        wide = np.full((len(rows), longer, 3), mean)
        wide[:, beside : beside + width] = rows
        square[above + top : above + top + len(rows)] = resize(wide, (len(rows), side))
    return resize(square, (side, side))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
