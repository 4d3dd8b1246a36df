"""What the tables `chat` and `questions` share: an engine of random weights, a clip, and the documented way to ask.

The documented way is the processor on prompt and frames, then `model.generate`, for every question anew.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from internals import Conversation, Turn, make_clip, prompt_text
from make_checkpoint import GEOMETRIES, make_checkpoint
from numpy.typing import NDArray
from transformers import VideoLlavaImageProcessor

from benchmarks import documented, table
from benchmarks.table import Record, spread
from videollava_cli import Engine, load
from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.media import NUM_FRAMES, Medium
from videollava_cli.settings import Settings

NUM_NEW_TOKENS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Talk:
    """An engine whose answers never end by themselves, the clip it is asked about, and how long its answers are."""

    engine: Engine
    processor: VideoLlavaImageProcessor
    clip: Medium
    frames: NDArray[np.uint8]
    settings: Settings

    def conversation(self, turns: Sequence[Turn]) -> Conversation:
        """Return a conversation about the clip."""
        return Conversation.about([self.clip.kind], turns)

    def documented_seconds(self, conversation: Conversation, max_new_tokens: int) -> float:
        """Return how long the documented way takes to answer."""
        began = time.perf_counter()
        model = self.engine.model
        inputs = documented.text_inputs(model, self.engine.tokenizer, [prompt_text(self.engine, conversation)])
        with quiet_libraries():
            inputs |= documented.pixel_inputs(model, self.processor, clips=[self.frames])
            model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)  # type: ignore[misc]
        return time.perf_counter() - began


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of these tables."""
    table.add_options(parser, runs=5)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="wide", help="of the random weights")


@contextmanager
def talk_about_a_clip(geometry: str) -> Iterator[Talk]:
    """Load random weights, and make a clip of noise."""
    with TemporaryDirectory() as folder:
        make_checkpoint(Path(folder), geometry=geometry)
        engine = load(folder, device="cpu")
        processor = VideoLlavaImageProcessor.from_pretrained(folder)
    engine.model.generation_config.eos_token_id = None
    engine.model.config.get_text_config().eos_token_id = None
    side = engine.checkpoint.pixels.crop_side
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, side, side, 3), np.uint8)
    yield Talk(engine, processor, make_clip(frames), frames, replace(engine.settings, max_new_tokens=NUM_NEW_TOKENS))


def make_table(talk: Talk, options: argparse.Namespace, name: str, ours: str) -> table.Table:
    """Return a table whose title names machine, libraries and checkpoint; `name` and `ours` head its first columns."""
    millions = sum(tensor.numel() for tensor in talk.engine.model.parameters()) / 1e6
    software = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    tokens = f"{talk.engine.checkpoint.tokens_per_video:,} tokens a clip"
    weights = f"{options.geometry}: {millions:.0f} M random weights, fp32, {tokens}"
    columns: list[table.Column] = [
        (name, ">", lambda row: row["name"]),
        (ours, ">", lambda row: spread(row["ours"], 3)),
        ("documented, s", ">", lambda row: spread(row["documented"], 3)),
        ("ratio", ">", lambda row: f"1/{1 / row['ratio']:.1f}"),
    ]
    return table.Table(options, columns, table.machine_line(options, software, weights))


def add_rows(printed: table.Table, rows: dict[int, Record]) -> dict[int, float]:
    """Print rows with their ratios; return our medians."""
    medians = {number: median(row["ours"]) for number, row in rows.items()}
    for number, row in rows.items():
        printed.add({"name": str(number), **row, "ratio": medians[number] / median(row["documented"])})
    return medians
