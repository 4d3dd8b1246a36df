#!/usr/bin/env python3
"""Compare our token loop with `model.generate`, and our pixels with `VideoLlavaImageProcessor`.

Both sides get the same prompt texts and resized pictures: random weights in the 7B's token geometry, fp32 (and nf4),
on the CPU. Cases are asked alone and in batches; turn by turn, with and without a cache; with others about the same
media; and with static decode, as a CUDA card captures it. Resizing is compared by itself.

How many answers of `tiny` in 16 bits change in a batch, where sums are rounded in another order, decides nothing.

    python scripts/parity.py            # exit status 1 if anything differs
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import internals
import numpy as np
import torch
from benchmarks import documented
from make_checkpoint import make_checkpoint
from numpy.typing import NDArray
from transformers import VideoLlavaImageProcessor

from videollava_cli import Engine, load
from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.engine.model_access import end_of_answer_ids
from videollava_cli.engine.request import Detokenizer
from videollava_cli.media import MediaKind, Medium
from videollava_cli.preprocessing import pixel_values
from videollava_cli.prompt import Conversation, Turn
from videollava_cli.sampling import Window

NUM_NEW_TOKENS = 24
MAX_FRAME_LEVELS = 2  # of 255, between our video frames and the image processor's
PICTURE_SIZES = ((240, 320), (320, 240), (224, 224), (97, 131), (720, 1280), (600, 61), (31, 40))  # height, width
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "nf4": {},
    "repetition penalty": {"repetition_penalty": 1.3},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7},
}
BATCH_MODES = ("greedy", "repetition penalty", "sampled")
SYSTEM = "You watch closely."
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SUFFIXES = {".mp4", ".webm", ".gif", ".png", ".jpg"}
QUESTIONS = ("What happens?", "What color is it?", "Which way does it move?", "How many shapes are there?")
Item = TypeVar("Item")
BATCH_SIZE = 8  # as `vllava batch` takes at most on a CPU


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt."""

    name: str
    media: tuple[Medium, ...]
    conversation: Conversation = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The ids of both sides for one row, or their texts."""

    name: str
    ours: list[int] | str
    reference: list[int] | str

    @property
    def is_equal(self) -> bool:
        return self.ours == self.reference


def main() -> int:
    """Print the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="name every case")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        make_checkpoint(Path(folder))
        how: Any = {"device": "cpu", "dtype": "float32", "cache": False}
        plain, quantized = load(folder, **how), load(folder, load_4bit=True, **how)
    kinds = {
        "equal to model.generate": list(compare_all(plain, quantized)),
        "cached equal to uncached and to model.generate": list(compare_cached(plain)),
        "together equal to alone": list(compare_together(plain)),
        "static decode equal to dynamic and to model.generate": list(compare_static(plain)),
    }
    for title, outcomes in kinds.items():
        for outcome in outcomes:
            if options.verbose or not outcome.is_equal:
                print(f"{'equal  ' if outcome.is_equal else 'DIFFERS'} {outcome.name}: {outcome.ours[:8]!r}...")
        print(f"{title}: {sum(outcome.is_equal for outcome in outcomes)} of {len(outcomes)}")
    answers_are_equal = all(outcome.is_equal for outcomes in kinds.values() for outcome in outcomes)
    for dtype in ("float16", "bfloat16"):
        num_equal, num_answers = count_equal_in_batch(dtype)
        print(f"{dtype}, tiny: {num_equal} of {num_answers} answers are in a batch what they are alone")
    image_levels, image_values, frame_levels = pixel_differences()
    print(f"images: at most {image_levels}/255 and {image_values:g} in pixel values from VideoLlavaImageProcessor")
    print(f"video frames: at most {frame_levels}/255 from VideoLlavaImageProcessor (bound {MAX_FRAME_LEVELS}/255)")
    pixels_are_right = image_levels == 0 and image_values == 0 and frame_levels <= MAX_FRAME_LEVELS
    return 0 if answers_are_equal and pixels_are_right else 1


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
    cases = []
    for kind, shown in media.items():
        for talk, turns in talks.items():
            system = SYSTEM if (kind, talk) == ("video", "one question") else None
            about = Conversation.about([medium.kind for medium in shown], turns, system=system)
            cases.append(Case(f"{talk}, {kind}", shown, about))
    later = (Turn("What moves?", "A circle.", (clip.kind,)), Turn("And here?", None, (image.kind, second.kind)))
    return [*cases, Case("images at the second turn", (clip, image, second), Conversation(later))]


def random_image(engine: Engine, rng: np.random.Generator) -> Medium:
    """Return an image of smooth random colours, as the reader would shrink it."""
    pixels = internals.image_to_model(random_picture(rng, (300, 400)), engine.checkpoint.pixels)
    return Medium("image", MediaKind.IMAGE, pixels[None])


def random_clip(engine: Engine, rng: np.random.Generator) -> Medium:
    """Return a clip of smooth random colours; frames go through Pillow, so that both sides see the same."""
    pixels = engine.checkpoint.pixels
    frames = [internals.image_to_model(random_picture(rng, (180, 320)), pixels) for _ in range(8)]
    return internals.make_clip(np.stack(frames))


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


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence into batches; the last one may be shorter."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def compare_all(plain: Engine, quantized: Engine) -> Iterator[Outcome]:
    """Compare every case in every mode: alone, and in left-padded batches of different lengths."""
    cases = make_cases(plain)
    for mode, options in MODES.items():
        engine = quantized if mode == "nf4" else plain
        for case in cases:
            yield compare(engine, [case], mode, options)[0]
        if mode == "sampled":
            continue  # for a batch `model.generate` draws all rows' random numbers in turn from one generator
        for several in in_batches(cases, 4):
            yield from compare(engine, several, f"{mode}, batch", options)


def compare_cached(engine: Engine) -> Iterator[Outcome]:
    """Ask every case turn by turn with a cache, with an empty one, and of `model.generate`."""
    caching = replace(engine)  # its caches are its own
    asked = [turn for case in make_cases(engine) for turn in turn_by_turn(case)]
    for case in [*asked, *reversed(asked)]:
        cached = engine_text(caching, case)
        engine.clear_cache()
        yield Outcome(f"cached against uncached: {case.name}", cached, engine_text(engine, case))
        yield Outcome(f"cached against generate: {case.name}", cached, reference_text(engine, case))


def compare_together(engine: Engine) -> Iterator[Outcome]:
    """Answer all conversations about the same media together, with an empty cache and again; and each alone."""
    about: dict[tuple[int, ...], list[Case]] = {}
    for case in [turn for each in make_cases(engine) for turn in turn_by_turn(each)]:
        about.setdefault(tuple(id(medium) for medium in case.media), []).append(case)
    for mode in BATCH_MODES:
        options = MODES[mode]
        for cases in about.values():
            alone = []
            for case in cases:
                engine.clear_cache()
                alone.append(engine_text(engine, case, options))
            engine.clear_cache()
            for state in ("uncached", "cached"):
                together = engine_texts(engine, cases, options)
                yield from _outcomes(f"together, {mode}, {state}", cases, together, alone)


def compare_static(engine: Engine) -> Iterator[Outcome]:
    """Answer with static decode: batches of different lengths, and conversations about the same media."""
    static = replace(engine, static_decode=True)
    cases = make_cases(engine)
    for mode in BATCH_MODES:
        others = our_ids if mode == "sampled" else reference_ids  # as above
        for several in in_batches(cases, 4):
            pairs = our_ids(static, several, MODES[mode]), others(engine, several, MODES[mode])
            yield from _outcomes(f"static, {mode}, batch", several, *pairs)
    asked = [turn for case in (cases[4], cases[12]) for turn in turn_by_turn(case)]
    alone = [engine_text(engine, case) for case in asked]
    yield from _outcomes("static, turn by turn", asked, [engine_text(static, case) for case in asked], alone)


def engine_text(engine: Engine, case: Case, options: dict[str, Any] | None = None) -> str:
    """Return the text that an engine streams."""
    return engine_texts(engine, [case], options or {})[0]


def engine_texts(engine: Engine, cases: Sequence[Case], options: dict[str, Any]) -> list[str]:
    """Return the texts that an engine streams when it is asked cases about the same media together."""
    asked = [(case.conversation, case.media) for case in cases]
    return internals.answer_texts(engine, asked, NUM_NEW_TOKENS, **options)


def compare(engine: Engine, cases: Sequence[Case], mode: str, options: dict[str, Any]) -> list[Outcome]:
    """Answer cases as one batch with our loop and with `model.generate`."""
    return list(_outcomes(mode, cases, our_ids(engine, cases, options), reference_ids(engine, cases, options)))


def _outcomes(title: str, cases: Sequence[Case], ours: Sequence[Any], others: Sequence[Any]) -> Iterator[Outcome]:
    for case, one, other in zip(cases, ours, others, strict=True):
        yield Outcome(f"{title}: {case.name}", one, other)


def our_ids(engine: Engine, cases: Sequence[Case], options: dict[str, Any]) -> list[list[int]]:
    """Return the ids that the engine generates for a batch of cases, end-of-answer ids included."""
    return internals.answer_ids(engine, [(case.conversation, case.media) for case in cases], NUM_NEW_TOKENS, **options)


def reference_ids(engine: Engine, cases: Sequence[Case], options: dict[str, Any]) -> list[list[int]]:
    """Return the ids that transformers generates, from prompts whose placeholders are written out."""
    texts = [engine.encoder.encoded(case.conversation).text for case in cases]
    media = [medium for case in cases for medium in case.media]
    images = [medium.pixels[0] for medium in media if medium.kind is MediaKind.IMAGE]
    clips = [medium.pixels for medium in media if medium.kind is MediaKind.VIDEO]
    inputs = documented.text_inputs(engine.model, engine.tokenizer, texts)
    chosen = {key: value for key, value in options.items() if key != "seed"}
    with quiet_libraries():
        inputs |= documented.pixel_inputs(engine.model, VideoLlavaImageProcessor(), images, clips)
        torch.manual_seed(options.get("seed", 0))
        output = engine.model.generate(  # type: ignore[misc]
            **inputs, **chosen, do_sample="temperature" in options, max_new_tokens=NUM_NEW_TOKENS
        )
    end_ids = end_of_answer_ids(engine.model)
    rows = []
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        ends = [position for position, token in enumerate(row, 1) if token in end_ids]
        rows.append(row[: ends[0]] if ends else row)  # `model.generate` pads rows that end early
    return rows


def reference_text(engine: Engine, case: Case) -> str:
    """Return the text of what transformers generates, detokenized as ours is."""
    end_ids, detokenizer = end_of_answer_ids(engine.model), Detokenizer(engine.tokenizer)
    ids = [token for token in reference_ids(engine, [case], {})[0] if token not in end_ids]
    return "".join([*(detokenizer.add(token) for token in ids), detokenizer.finish()])


def count_equal_in_batch(dtype: str) -> tuple[int, int]:
    """Ask `tiny` every question about every example, in batches and alone; return how many are equal, of how many."""
    engine = load("tiny", device="cpu", dtype=dtype, offline=True)  # type: ignore[arg-type]  # any str
    assert engine.read is not None
    paths = sorted(path for path in EXAMPLES.iterdir() if path.suffix in SUFFIXES)
    media = [engine.read(str(path), Window()) for path in paths]
    asked = []
    for question in QUESTIONS:
        asked += [(Conversation.about([medium.kind], (Turn(question),)), (medium,)) for medium in media]
    max_new_tokens = engine.settings.max_new_tokens
    together = []
    for batch in in_batches(asked, BATCH_SIZE):
        together += internals.answer_ids(engine, batch, max_new_tokens)
    alone = [internals.answer_ids(engine, [each], max_new_tokens)[0] for each in asked]
    return sum(one == other for one, other in zip(together, alone, strict=True)), len(asked)


def pixel_differences() -> tuple[int, float, int]:
    """Return the largest differences of images in uint8 levels and pixel values, and of video frames in levels."""
    rng = np.random.default_rng(1)
    image_levels, image_values, frame_levels = 0, 0.0, 0
    for size in PICTURE_SIZES:
        picture = random_picture(rng, size)
        ours, frame = internals.image_to_model(picture), internals.frame_to_model(picture)
        levels = _processed(picture, do_rescale=False, do_normalize=False).permute(1, 2, 0).numpy()
        values = _processed(picture)
        image_levels = max(image_levels, int(np.abs(ours.astype(int) - levels).max()))
        image_values = max(image_values, float((pixel_values(ours, internals.PIXELS) - values).abs().max()))
        frame_levels = max(frame_levels, int(np.abs(frame.astype(int) - levels).max()))
    return image_levels, image_values, frame_levels


def _processed(picture: NDArray[np.uint8], **options: bool) -> Any:
    with quiet_libraries():
        processed = VideoLlavaImageProcessor()([picture], return_tensors="pt", **options)  # type: ignore[arg-type]
    return next(iter(processed.values()))[0]


if __name__ == "__main__":
    sys.exit(main())
