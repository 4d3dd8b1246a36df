#!/usr/bin/env python3
"""Compare our token loop with `model.generate`, and our pixels with `VideoLlavaImageProcessor`.

The reference gets the same prompt texts and resized pictures; its prompts then spell out every placeholder word, its
pixel values come from transformers' image processor, its loop is `model.generate`. Resizing is compared by itself, on
whole pictures. Random weights in the 7B's token geometry, fp32, on the CPU; nf4 weights for the mode of that name.

Then every case is asked turn by turn of an engine that keeps what it ran, of the engine made to forget it, and of
`model.generate` over the whole prompt; and conversations about the same media are answered together and alone.

Static decode, as a CUDA card captures it, is held against `model.generate` as well, batched, in every mode, and
answers conversations together.

In 16 bits rounding may tell a batch from its rows; how often it does is told, and decides nothing.

    python scripts/parity.py            # exit status 1 if anything differs
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from make_checkpoint import make_checkpoint
from numpy.typing import NDArray
from parity_cases import Case, make_cases, random_clip, random_image, random_picture, turn_by_turn
from parity_rounding import count_equal
from transformers import VideoLlavaImageProcessor

from videollava_cli.engine import Engine, Request
from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.engine.model_access import end_of_answer_ids, image_argument
from videollava_cli.engine.sequence import Detokenizer
from videollava_cli.engine.startup import load
from videollava_cli.media import MediaKind
from videollava_cli.preprocessing import pixel_values, shrink_frame, shrink_image

__all__ = ["make_cases", "random_clip", "random_image", "turn_by_turn"]  # beside what is below, for tests

NUM_NEW_TOKENS = 24
MAX_FRAME_LEVELS = 2  # of 255, between our video frames and the image processor's
PICTURE_SIZES = ((240, 320), (320, 240), (224, 224), (97, 131), (720, 1280), (600, 61), (31, 40))  # height, width
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "nf4": {"load_4bit": True},
    "repetition penalty": {"repetition_penalty": 1.3},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The ids of both sides for one row, or their texts."""

    name: str
    ours: list[int] | str
    reference: list[int] | str

    @property
    def is_equal(self) -> bool:
        """Whether both sides gave the same."""
        return self.ours == self.reference


def main() -> int:
    """Print the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="name every case")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        make_checkpoint(Path(folder))
        kinds = {
            "equal to model.generate": list(compare_all(Path(folder))),
            "cached equal to uncached and to model.generate": list(compare_cached(Path(folder))),
            "together equal to alone": list(compare_together(Path(folder))),
            "static decode equal to dynamic and to model.generate": list(compare_static(Path(folder))),
        }
    for title, outcomes in kinds.items():
        for outcome in outcomes:
            if options.verbose or not outcome.is_equal:
                print(f"{'equal  ' if outcome.is_equal else 'DIFFERS'} {outcome.name}: {outcome.ours[:8]!r}...")
        print(f"{title}: {sum(outcome.is_equal for outcome in outcomes)} of {len(outcomes)}")
    answers_are_equal = all(outcome.is_equal for outcomes in kinds.values() for outcome in outcomes)
    for count in count_equal():
        print(
            f"{count.dtype}, tiny: {count.num_equal} of {count.num_answers} answers are in a batch what they are alone"
        )
    image_levels, image_values, frame_levels = pixel_differences()
    print(f"images: at most {image_levels}/255 and {image_values:g} in pixel values from VideoLlavaImageProcessor")
    print(f"video frames: at most {frame_levels}/255 from VideoLlavaImageProcessor (bound {MAX_FRAME_LEVELS}/255)")
    pixels_are_right = image_levels == 0 and image_values == 0 and frame_levels <= MAX_FRAME_LEVELS
    return 0 if answers_are_equal and pixels_are_right else 1


def compare_all(checkpoint: Path) -> Iterator[Outcome]:
    """Compare every case in every mode: alone, and in left-padded batches of different lengths."""
    engines = {is_4bit: load(str(checkpoint), device="cpu", load_4bit=is_4bit) for is_4bit in (False, True)}
    cases = make_cases(engines[False])
    for mode, options in MODES.items():
        engine = engines[mode == "nf4"]
        for case in cases:
            yield compare(engine, [case], mode, options)[0]
        if mode == "sampled":
            continue  # for a batch `model.generate` draws all rows' random numbers in turn from one generator
        for first in range(0, len(cases), 4):
            yield from compare(engine, cases[first : first + 4], f"{mode}, batch", options)


def compare_cached(checkpoint: Path) -> Iterator[Outcome]:
    """Ask every case turn by turn of an engine that keeps what it ran, and of what knows nothing of earlier turns."""
    keeping, forgetful = (load(str(checkpoint), device="cpu") for _ in range(2))
    asked = [turn for case in make_cases(keeping) for turn in turn_by_turn(case)]
    for case in [*asked, *reversed(asked)]:
        cached = engine_text(keeping, case)
        forgetful.clear_cache()
        yield Outcome(f"cached against uncached: {case.name}", cached, engine_text(forgetful, case))
        yield Outcome(f"cached against generate: {case.name}", cached, reference_text(forgetful, case))


def compare_together(checkpoint: Path) -> Iterator[Outcome]:
    """Answer all conversations about the same media together, with nothing kept and again; and each alone."""
    engine = load(str(checkpoint), device="cpu")
    about: dict[tuple[int, ...], list[Case]] = {}
    for case in [turn for each in make_cases(engine) for turn in turn_by_turn(each)]:
        about.setdefault(tuple(id(medium) for medium in case.media), []).append(case)
    for mode, options in MODES.items():
        if mode == "nf4":
            continue
        for cases in about.values():
            alone = []
            for case in cases:
                engine.clear_cache()
                alone.append(engine_text(engine, case, options))
            engine.clear_cache()
            for state in ("nothing kept", "kept"):
                together = engine_texts(engine, cases, options)
                names = [f"together, {mode}, {state}: {case.name}" for case in cases]
                yield from (Outcome(*row) for row in zip(names, together, alone, strict=True))


def compare_static(checkpoint: Path) -> Iterator[Outcome]:
    """Answer with static decode: batches of different lengths, and conversations about the same media."""
    engine = load(str(checkpoint), device="cpu")
    static = replace(engine, static_decode=True)
    cases = make_cases(engine)
    for mode, options in MODES.items():
        if mode == "nf4":
            continue
        for first in range(0, len(cases), 4):
            several = cases[first : first + 4]
            ours = our_ids(static, several, options)
            is_drawn_alike = mode != "sampled"  # as above
            others = (reference_ids if is_drawn_alike else our_ids)(engine, several, options)
            names = [f"static, {mode}, batch: {case.name}" for case in several]
            yield from (Outcome(*row) for row in zip(names, ours, others, strict=True))
    asked = [turn for case in (cases[4], cases[12]) for turn in turn_by_turn(case)]
    alone = [engine_text(engine, case) for case in asked]
    engine.clear_cache()
    for case, text in zip(asked, alone, strict=True):
        yield Outcome(f"static, turn by turn: {case.name}", engine_text(static, case), text)


def engine_text(engine: Engine, case: Case, options: dict[str, Any] | None = None) -> str:
    """Return the text that an engine streams."""
    return engine_texts(engine, [case], options or {})[0]


def engine_texts(engine: Engine, cases: Sequence[Case], options: dict[str, Any]) -> list[str]:
    """Return the texts that an engine streams when it is asked cases about the same media together."""
    settings = replace(engine.settings, max_new_tokens=NUM_NEW_TOKENS, **options)
    texts = {Request(case.conversation, case.media, settings): "" for case in cases}
    for request, chunk in engine.answer(list(texts)):
        texts[request] += chunk.text
    return list(texts.values())


def reference_text(engine: Engine, case: Case) -> str:
    """Return the text of what transformers generates, detokenized as ours is."""
    detokenizer = Detokenizer(engine.tokenizer)
    ids = reference_ids(engine, [case], {})[0]
    pieces = [detokenizer.add(token) for token in ids if token not in end_of_answer_ids(engine.model)]
    return "".join([*pieces, detokenizer.finish()])


def compare(engine: Engine, cases: Sequence[Case], mode: str, options: dict[str, Any]) -> list[Outcome]:
    """Answer cases as one batch with our loop and with `model.generate`."""
    ours = our_ids(engine, cases, options)
    reference = reference_ids(engine, cases, options)
    names = [f"{mode}: {case.name}" for case in cases]
    return [Outcome(*row) for row in zip(names, ours, reference, strict=True)]


def our_ids(engine: Engine, cases: Sequence[Case], options: dict[str, Any]) -> list[list[int]]:
    """Return the ids that the engine generates for a batch of cases with nothing cached, end-of-answer ids included."""
    chosen = {key: value for key, value in options.items() if key != "load_4bit"}
    settings = replace(engine.settings, max_new_tokens=NUM_NEW_TOKENS, **chosen)
    ids: dict[Request, list[int]] = {Request(case.conversation, case.media, settings): [] for case in cases}
    engine.clear_cache()
    for request, chunk in engine.answer(list(ids), max_num_seqs=len(cases)):
        ids[request] += chunk.token_ids
    return list(ids.values())


def reference_ids(engine: Engine, cases: Sequence[Case], options: dict[str, Any]) -> list[list[int]]:
    """Return the ids that transformers generates, from prompts whose placeholders are written out."""
    lengths = {"<image>": 256, "<video>": 2056}  # transformers docs, model_doc/video_llava
    texts = []
    for case in cases:
        text = engine.encoder.text(case.conversation)
        for word, length in lengths.items():
            text = text.replace(word, word * length)
        texts.append(text)
    inputs = dict(engine.tokenizer(texts, padding=True, return_tensors="pt"))
    images, clips = _pictures(cases)
    if images:
        inputs[image_argument(engine.model)] = _reference_pixels(images)
    if clips:
        inputs["pixel_values_videos"] = torch.stack([_reference_pixels(list(clip)) for clip in clips])
    chosen = {key: value for key, value in options.items() if key not in ("load_4bit", "seed")}
    inputs = {name: tensor.to(engine.model.device) for name, tensor in inputs.items()}
    torch.manual_seed(options.get("seed", 0))
    with quiet_libraries():
        output = engine.model.generate(  # type: ignore[misc]
            **inputs, **chosen, do_sample="temperature" in options, max_new_tokens=NUM_NEW_TOKENS
        )
    new = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [_until_end(row, engine) for row in new]


def pixel_differences() -> tuple[int, float, int]:
    """Return the largest differences from `VideoLlavaImageProcessor` over sizes and contents.

    Returns:
        Images in uint8 levels, images in pixel values, video frames in uint8 levels.
    """
    rng = np.random.default_rng(1)
    with TemporaryDirectory() as folder:
        make_checkpoint(Path(folder))
        pixels = load(folder, device="cpu").checkpoint.pixels
    image_levels, image_values, frame_levels = 0, 0.0, 0
    for size in PICTURE_SIZES:
        picture = random_picture(rng, size)
        ours, frame = shrink_image(picture, pixels), shrink_frame(picture, pixels)
        levels = _reference_pixels([picture], do_rescale=False, do_normalize=False)[0].permute(1, 2, 0).numpy()
        values = _reference_pixels([picture])[0]
        image_levels = max(image_levels, int(np.abs(ours.astype(int) - levels).max()))
        image_values = max(image_values, float((pixel_values(ours, pixels) - values).abs().max()))
        frame_levels = max(frame_levels, int(np.abs(frame.astype(int) - levels).max()))
    return image_levels, image_values, frame_levels


def _reference_pixels(pictures: list[NDArray[np.uint8]], **options: bool) -> torch.Tensor:
    with quiet_libraries():
        processed = VideoLlavaImageProcessor()(pictures, return_tensors="pt", **options)  # type: ignore[arg-type]
    pixels: torch.Tensor = next(iter(processed.values()))
    return pixels


def _pictures(cases: Sequence[Case]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    media = [medium for case in cases for medium in case.media]
    return (
        [medium.pixels[0] for medium in media if medium.kind is MediaKind.IMAGE],
        [medium.pixels for medium in media if medium.kind is MediaKind.VIDEO],
    )


def _until_end(ids: list[int], engine: Engine) -> list[int]:
    """Cut a row behind its first end-of-answer id; `model.generate` pads rows that end early."""
    ends = [position for position, token in enumerate(ids) if token in end_of_answer_ids(engine.model)]
    return ids[: ends[0] + 1] if ends else ids


if __name__ == "__main__":
    sys.exit(main())
