"""What the tables about conversations share: an engine of random weights, a clip, and the documented way to ask.

The documented way is that of transformers' page about Video-LLaVA: the processor on prompt and frames, then
`model.generate`, for every question anew. `VideoLlavaProcessor` itself wants torchvision; its parts are called here.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from make_checkpoint import GEOMETRIES, make_checkpoint
from transformers import VideoLlavaImageProcessor

from benchmarks.machine import machine_line
from videollava_cli.engine import Engine
from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.engine.startup import load
from videollava_cli.media import NUM_FRAMES, FrameStamp, MediaKind, Medium
from videollava_cli.prompt import Conversation, Turn
from videollava_cli.settings import Settings

NUM_NEW_TOKENS = 16


@dataclass(slots=True)
class Row:
    """One measurement: seconds of each run of ours, and of the documented way."""

    name: str
    ours: list[float] = field(default_factory=list)
    documented: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Our median over the documented way's."""
        return median(self.ours) / median(self.documented)

    def cells(self) -> str:
        """Return the row of a table."""
        spreads = (f"{median(s):.3f} ({min(s):.3f} to {max(s):.3f})" for s in (self.ours, self.documented))
        return f"| {self.name} | {' | '.join(spreads)} | 1/{1 / self.ratio:.1f} |"


@dataclass(frozen=True, slots=True, eq=False)
class Talk:
    """An engine whose answers never end by themselves, what it is asked about, and how long its answers are."""

    engine: Engine
    processor: VideoLlavaImageProcessor
    clip: Medium
    settings: Settings

    def conversation(self, turns: Sequence[Turn]) -> Conversation:
        """Return a conversation about the clip."""
        return Conversation.about([self.clip.kind], turns)

    def documented_seconds(self, conversation: Conversation, max_new_tokens: int) -> float:
        """Return how long the documented way takes to answer."""
        began = time.perf_counter()
        engine = self.engine
        text = engine.encoder.text(conversation)
        text = text.replace("<video>", "<video>" * engine.checkpoint.tokens_per_video)
        inputs = dict(engine.tokenizer(text, return_tensors="pt"))
        with quiet_libraries():
            frames = self.processor(list(self.clip.pixels), return_tensors="pt")
            inputs["pixel_values_videos"] = next(iter(frames.values()))[None]
            engine.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)  # type: ignore[misc]
        return time.perf_counter() - began


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of these tables."""
    parser.add_argument("--runs", type=int, default=5, help="of each side, after one that does not count")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="wide", help="of the random weights")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single time")


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
    clip = Medium("noise", MediaKind.VIDEO, frames, tuple(FrameStamp(i, i / NUM_FRAMES) for i in range(NUM_FRAMES)))
    yield Talk(engine, processor, clip, replace(engine.settings, max_new_tokens=NUM_NEW_TOKENS))


def header(talk: Talk, options: argparse.Namespace) -> str:
    """Return the line above a table: machine, libraries, checkpoint."""
    millions = sum(tensor.numel() for tensor in talk.engine.model.parameters()) / 1e6
    software = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    tokens = f"{talk.engine.checkpoint.tokens_per_video:,} tokens a clip"
    weights = f"{options.geometry}: {millions:.0f} M random weights, fp32, {tokens}"
    return f"{machine_line(options.runs)}; {software}; {weights}"


def told(row: Row) -> dict[str, Any]:
    """Return a row as an object."""
    return {"name": row.name, "ours": row.ours, "documented": row.documented, "ratio": row.ratio}
