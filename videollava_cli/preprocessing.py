"""Pictures to pixel values, by a checkpoint's own settings; knows nothing of files or of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videollava_cli.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

BICUBIC = 3  # PIL.Image.Resampling.BICUBIC, as it stands in preprocessor_config.json


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """The image processor's settings that matter: sides in pixels, then scale, mean and std of RGB."""

    resize_side: int
    crop_side: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PixelSettings":
        """Read the settings from the content of `preprocessor_config.json`.

        Raises:
            CheckpointError: If a setting is missing, or asks for what `VideoLlavaImageProcessor` does not do by
                default (shortest edge, bicubic, centre crop, rescale, normalize).
        """
        switched_off = [
            key for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize") if not config.get(key, True)
        ]
        if switched_off or config.get("resample", BICUBIC) != BICUBIC:
            raise CheckpointError(
                f"unsupported image processor: {', '.join(switched_off) or 'resample'} is not as in Video-LLaVA"
            )
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


def shrink_image(rgb: "NDArray[np.uint8]", pixels: PixelSettings) -> "NDArray[np.uint8]":
    """Resize and crop a still picture exactly as `VideoLlavaImageProcessor` does, with Pillow.

    Args:
        rgb: uint8 RGB, (H, W, 3).
        pixels: The checkpoint's settings.

    Returns:
        uint8 RGB, (S, S, 3), S being `pixels.crop_side`.
    """
    import numpy as np
    from PIL import Image

    height, width = resized_shape(rgb.shape[0], rgb.shape[1], pixels.resize_side)
    resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    return _center_crop(np.asarray(resized), pixels.crop_side)


def shrink_frame(rgb: "NDArray[np.uint8]", pixels: PixelSettings) -> "NDArray[np.uint8]":
    """Resize and crop a video frame as transformers' video processor does: antialiased bicubic on uint8.

    At most 2 levels from `shrink_image` and several times faster (`scripts/parity.py` measures the difference).

    Args:
        rgb: uint8 RGB, (H, W, 3).
        pixels: The checkpoint's settings.

    Returns:
        uint8 RGB, (S, S, 3), S being `pixels.crop_side`.
    """
    import torch
    from torch.nn.functional import interpolate

    channels_last = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    size = resized_shape(rgb.shape[0], rgb.shape[1], pixels.resize_side)
    with torch.inference_mode():
        resized = interpolate(channels_last, size=size, mode="bicubic", antialias=True)
    return _center_crop(resized[0].permute(1, 2, 0).numpy(), pixels.crop_side)


def pixel_values(rgb: "NDArray[np.uint8]", pixels: PixelSettings) -> "torch.Tensor":
    """Rescale and normalize, bit for bit as `VideoLlavaImageProcessor` does.

    Args:
        rgb: uint8 RGB, (..., S, S, 3).
        pixels: The checkpoint's settings.

    Returns:
        float32, (..., 3, S, S).
    """
    import numpy as np
    import torch

    # transformers multiplies in float64, rounds to float32, then normalizes in float32.
    levels = (np.arange(256, dtype=np.float64) * pixels.scale).astype(np.float32)[:, None]
    table = (levels - np.asarray(pixels.mean, np.float32)) / np.asarray(pixels.std, np.float32)
    planes = [table[:, channel][rgb[..., channel]] for channel in range(3)]
    return torch.from_numpy(np.stack(planes, axis=-3))


def _center_crop(rgb: "NDArray[np.uint8]", side: int) -> "NDArray[np.uint8]":
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    return rgb[top : top + side, left : left + side].copy()


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
