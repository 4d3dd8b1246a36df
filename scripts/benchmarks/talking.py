"""The tables `chat` and `questions`: an engine of random weights asked about a clip, against the documented way.

The documented way runs the processor on prompt and frames, then `model.generate`, for every question anew. `chat`
measures seconds to the first token of turns 1, 2 and 10; earlier answers in the text are one sentence, so no generated
token can be reused. `questions` asks N questions, 16 tokens each, ours together and with an empty cache.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from internals import make_clip
from make_checkpoint import GEOMETRIES, make_checkpoint
from transformers import VideoLlavaImageProcessor

from benchmarks import documented, table
from benchmarks.table import Record, spread
from videollava_cli import Engine, load
from videollava_cli.engine import Request
from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.media import NUM_FRAMES, Medium
from videollava_cli.prompt import Conversation, Turn
from videollava_cli.settings import Settings

NUM_NEW_TOKENS = 16
SHOWN_TURNS = (1, 2, 10)
QUESTION, ANSWER = "And what happens then in the video?", "A red circle moves from left to right."
COUNTS = (1, 4, 16)
NOUNS = ("circle", "video", "shape", "color")
QUESTIONS = tuple(
    f"What {verb} the {noun}?" for noun in NOUNS for verb in ("moves", "happens to", "is beside", "hides")
)


@dataclass(frozen=True, slots=True, eq=False)
class Talk:
    """An engine whose answers never end by themselves, and the clip it is asked about."""

    engine: Engine
    processor: VideoLlavaImageProcessor
    clip: Medium
    settings: Settings

    def conversation(self, turns: Sequence[Turn]) -> Conversation:
        return Conversation.about([self.clip.kind], turns)

    def documented_seconds(self, conversation: Conversation, max_new_tokens: int) -> float:
        began = time.perf_counter()
        model = self.engine.model
        text = self.engine.encoder.encoded(conversation).text
        inputs = documented.text_inputs(model, self.engine.tokenizer, [text])
        with quiet_libraries():
            inputs |= documented.pixel_inputs(model, self.processor, clips=[self.clip.pixels])
            model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)  # type: ignore[misc]
        return time.perf_counter() - began


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of these tables."""
    table.add_options(parser, runs=5)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="wide", help="of the random weights")


def talk_about_a_clip(geometry: str) -> Talk:
    """Load random weights, and make a clip of noise."""
    with TemporaryDirectory() as folder:
        make_checkpoint(Path(folder), geometry=geometry)
        engine = load(folder, device="cpu", dtype="float32")
        processor = VideoLlavaImageProcessor.from_pretrained(folder)
    engine.model.generation_config.eos_token_id = None
    engine.model.config.get_text_config().eos_token_id = None
    side = engine.checkpoint.pixels.crop_side
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, side, side, 3), np.uint8)
    return Talk(engine, processor, make_clip(frames), replace(engine.settings, max_new_tokens=NUM_NEW_TOKENS))


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    is_chat = options.table == "chat"
    until = " to the first token" if is_chat else ""
    talk = talk_about_a_clip(options.geometry)
    millions = sum(tensor.numel() for tensor in talk.engine.model.parameters()) / 1e6
    software = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    tokens = f"{talk.engine.checkpoint.tokens_per_video:,} tokens a clip"
    weights = f"{options.geometry}: {millions:.0f} M random weights, fp32, {tokens}"
    columns: list[table.Column] = [
        ("turn" if is_chat else "questions", ">", lambda row: row["name"]),
        (f"ours, s{until} (min to max)", ">", lambda row: spread(row["ours"], 3)),
        ("documented, s", ">", lambda row: spread(row["documented"], 3)),
        ("ratio", ">", lambda row: f"1/{1 / row['ratio']:.1f}"),
    ]
    printed = table.Table(options, columns, software, weights)
    rows = _measure_chat(talk, options.runs) if is_chat else _measure_questions(talk, options.runs)
    medians = {number: median(row["ours"]) for number, row in rows.items()}
    for number, row in rows.items():
        printed.add({"name": str(number), **row, "ratio": medians[number] / median(row["documented"])})
    if is_chat:
        first, second, last = medians.values()
        printed.say(f"\nturn 2 takes 1/{first / second:.1f} of turn 1; turn 10 takes {last / second:.2f} of turn 2")
    else:
        printed.say(f"\n16 questions take {medians[16] / medians[1]:.2f} of one")


def _measure_chat(talk: Talk, runs: int) -> dict[int, Record]:
    """Hold a conversation of ten turns `runs` times, after one that does not count; return the turns shown."""
    rows: dict[int, Record] = {turn: {"ours": [], "documented": []} for turn in SHOWN_TURNS}
    for run in range(runs + 1):
        talk.engine.clear_cache()
        seconds = [_first_token_seconds(talk, turn) for turn in range(1, SHOWN_TURNS[-1] + 1)]
        for turn, row in rows.items():
            documented = talk.documented_seconds(_conversation(talk, turn), max_new_tokens=1)
            if run:
                row["ours"].append(seconds[turn - 1])
                row["documented"].append(documented)
    return rows


def _first_token_seconds(talk: Talk, turn: int) -> float:
    conversation = _conversation(talk, turn)
    began = time.perf_counter()
    *_, last = talk.engine.stream(conversation, [talk.clip], talk.settings)
    assert last.usage is not None, "the last chunk has the usage"
    return time.perf_counter() - began - last.usage.generate_seconds


def _conversation(talk: Talk, turn: int) -> Conversation:
    return talk.conversation([Turn(QUESTION, ANSWER)] * (turn - 1) + [Turn(QUESTION)])


def _measure_questions(talk: Talk, runs: int) -> dict[int, Record]:
    rows: dict[int, Record] = {count: {"ours": [], "documented": []} for count in COUNTS}
    for run in range(runs + 1):
        for count, row in rows.items():
            conversations = [talk.conversation([Turn(question)]) for question in QUESTIONS[:count]]
            talk.engine.clear_cache()
            began = time.perf_counter()
            list(talk.engine.answer([Request(each, (talk.clip,), talk.settings) for each in conversations]))
            ours = time.perf_counter() - began
            if not run and count > 1:
                continue  # the documented way is warm after one call
            documented = sum(talk.documented_seconds(each, NUM_NEW_TOKENS) for each in conversations)
            if run:
                row["ours"].append(ours)
                row["documented"].append(documented)
    return rows
