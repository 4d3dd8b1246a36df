"""What `parity.py` asks: prompts of every kind about every kind of media, made of random pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from videollava_cli.engine import Engine
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.preprocessing import shrink_image
from videollava_cli.prompt import Conversation, Turn

SYSTEM = "You watch closely."


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt: what it is about and what was said."""

    name: str
    media: tuple[Medium, ...]
    conversation: Conversation = field(repr=False)


def make_cases(engine: Engine) -> list[Case]:
    """Return every kind of prompt about every kind of media, of different lengths."""
    rng = np.random.default_rng(0)
    image, second, clip = random_image(engine, rng), random_image(engine, rng), random_clip(engine, rng)
    media: dict[str, tuple[Medium, ...]] = {
        "image": (image,),
        "video": (clip,),
        "image and video": (image, clip),
        "video and two images": (clip, second, image),
    }
    talks = {
        "one question": (Turn("What happens?"),),
        "three turns": (Turn("What moves?", "A red circle."), Turn("Where to?", "Right."), Turn("And then?")),
        "other scripts": (Turn("größer als 世界 🎬? <video>"),),
    }
    cases = [
        Case(f"{talk}, {kind}", shown, Conversation.about([m.kind for m in shown], turns, system=system))
        for kind, shown in media.items()
        for talk, turns in talks.items()
        for system in ((SYSTEM,) if talk == "one question" and kind == "video" else (None,))
    ]
    later = (Turn("What moves?", "A circle.", (clip.kind,)), Turn("And here?", None, (image.kind, second.kind)))
    return [*cases, Case("images at the second turn", (clip, image, second), Conversation(later))]


def random_image(engine: Engine, rng: np.random.Generator) -> Medium:
    """Return an image of smooth random colours, as the reader would shrink it."""
    picture = shrink_image(random_picture(rng, (300, 400)), engine.checkpoint.pixels)
    return Medium("image", MediaKind.IMAGE, picture[None])


def random_clip(engine: Engine, rng: np.random.Generator) -> Medium:
    """Return a clip of smooth random colours; frames go through Pillow, so that both sides see the same."""
    frames = [shrink_image(random_picture(rng, (180, 320)), engine.checkpoint.pixels) for _ in range(8)]
    return Medium("clip", MediaKind.VIDEO, np.stack(frames), tuple(FrameStamp(i, i / 8) for i in range(8)))


def random_picture(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return uint8 RGB, (H, W, 3): random colours with edges, gradients and noise in them."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x * rng.uniform(0, 0.3) + y * rng.uniform(0, 0.3) + rng.uniform(0, 6)) for _ in range(3)]
    picture = 128 + 100 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    picture[:: max(height // 7, 1)] = 255
    return np.clip(picture, 0, 255).astype(np.uint8)


def turn_by_turn(case: Case) -> Iterator[Case]:
    """Yield a case as it was when each of its questions was asked."""
    turns = case.conversation.turns
    for number, turn in enumerate(turns):
        talk = replace(case.conversation, turns=(*turns[:number], replace(turn, answer=None)))
        yield Case(f"{case.name}, turn {number + 1}", case.media[: len(talk.media)], talk)
