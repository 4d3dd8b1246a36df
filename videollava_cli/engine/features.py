"""Vision features of recent media, least recently used dropped first; knows the towers, no prompts."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli.engine.prefix import Placed
from videollava_cli.generation import image_features, storage_bytes, video_features
from videollava_cli.media import MediaKind
from videollava_cli.preprocessing import PixelSettings, pixel_values

LIMIT_BYTES = 256 << 20  # sixteen clips of the 7B in fp16: 2,056 tokens x 4,096 numbers each


class FeatureStore:
    """Features of media by their digests, at most so many bytes of them."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._features: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Return how much memory is held, in bytes."""
        return storage_bytes(self._features.values())

    def forget(self) -> None:
        """Drop everything."""
        self._features.clear()

    def of(
        self, placed: Sequence[Placed], model: VideoLlavaForConditionalGeneration, pixels: PixelSettings
    ) -> list[torch.Tensor]:
        """Return the features of media, running the towers for those that are not here.

        Each medium goes through its tower alone, so that its features do not depend on what is beside it.
        """
        found = []
        for place in placed:
            features = self._features.pop(place.digest, None)
            if features is None:
                features = _run_tower(place, model, pixels)
            found.append(features)
            self._features[place.digest] = features
            while self.num_bytes > self.limit_bytes:
                self._features.popitem(last=False)
        return found


def _run_tower(place: Placed, model: VideoLlavaForConditionalGeneration, pixels: PixelSettings) -> torch.Tensor:
    medium = place.medium
    values = pixel_values(medium.pixels, pixels).to(model.device, model.dtype)
    return video_features(model, values) if medium.kind is MediaKind.VIDEO else image_features(model, values[0])
