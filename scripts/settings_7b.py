"""The image processor's settings of LanguageBind/Video-LLaVA-7B-hf, from its preprocessor_config.json."""

from videollava_cli.preprocessing import PixelSettings

SIDE = 224  # pixels
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PIXELS = PixelSettings(SIDE, SIDE, 1 / 255, CLIP_MEAN, CLIP_STD)
