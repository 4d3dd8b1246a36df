#!/usr/bin/env python3
"""Train the bundled model `tiny` from nothing on drawn scenes, and write its checkpoint.

The first stage teaches one vision tower to read attributes. The others train everything on questions and answers:
about images, then about finding in an image what a question names, then about two shapes in a clip, then about all
there is; the end partly with weights rounded to 4 bits. With clips, the language model's first half is also taught
what each shape did. Both towers share their weights while training. A stopped run goes on from its last checkpoint.

    python scripts/collect_photos.py --split train
    python scripts/train_tiny.py
"""

import argparse
import copy
import hashlib
import json
import math
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitsandbytes.functional import get_4bit_type
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_world.architecture import TEXT_WIDTH, TOWER_WIDTH, make_config, make_image_processor, train_tokenizer
from tiny_world.asking import draw_any
from tiny_world.batches import EVERYTHING, IMAGES, MATCHING, PAIRS, SYSTEM_TEXTS, Diet, make_attribute_batch, make_batch
from tiny_world.facts import facts_of
from tiny_world.negatives import load_photos
from tiny_world.questions import OFF_TOPIC, REFUSAL, draw_questions
from tiny_world.scenes import draw_scene
from tiny_world.stages import AttributeHeads, DeedHeads, Normalizer, answer_loss, attribute_loss, rounded_to_nf4
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast, VideoLlavaForConditionalGeneration

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "docs" / "tiny-training.jsonl"
COMMAND = "python scripts/train_tiny.py"
CHECKPOINT_EVERY = 200  # steps
LOG_EVERY, HELD_OUT_EVERY = 50, 200  # steps; the second one: when wording that is not trained is tried
WEIGHT_DECAY = 0.02
STEPS = (2000, 1000, 800, 1400, 4200)
ROUNDED_FROM = 0.5  # share of the last stage's steps after which every other one rounds weights to 4 bits


@dataclass(frozen=True, slots=True)
class Stage:
    """How long and how fast a stage trains, and on what; without a diet the tower alone, on attributes."""

    name: str
    num_steps: int
    learning_rate: float
    tower_rate: float
    diet: Diet | None = None
    warmup: int = 100


class Batches(Dataset[dict[str, torch.Tensor]]):
    """The batches of a stage, numbered by step."""

    def __init__(self, stage: Stage, seed: int, tokenizer: PreTrainedTokenizerFast, photos: list[Image.Image]) -> None:
        self.stage, self.seed, self.tokenizer, self.photos = stage, seed, tokenizer, photos

    def __len__(self) -> int:
        return self.stage.num_steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        if self.stage.diet is None:
            return make_attribute_batch(step, self.seed, self.photos)
        return make_batch((self.seed, step), self.tokenizer, self.photos, self.stage.diet)


def main() -> None:
    """Train all stages and export the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "build" / "photos" / "train")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "tiny", help="checkpoints and log")
    parser.add_argument("--out", type=Path, default=ROOT / "videollava_cli" / "bundled" / "tiny")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--steps", type=int, nargs=5, default=STEPS, help="of the five stages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start-from", type=Path, metavar="FOLDER", help="exported weights to begin with")
    parser.add_argument("--export-only", action="store_true", help="write --out from the last checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options)
    if not options.export_only:
        trainer.run(Stage("attributes", options.steps[0], 1e-3, 1e-3))
        trainer.run(Stage("images", options.steps[1], 1e-3, 3e-4, IMAGES))
        trainer.run(Stage("matching", options.steps[2], 1e-3, 3e-4, MATCHING))
        trainer.run(Stage("pairs", options.steps[3], 1e-3, 3e-4, PAIRS))
        trainer.run(Stage("answers", options.steps[4], 8e-4, 3e-4, EVERYTHING))
    trainer.export(options.out)


class MuonAndAdamW:
    """One optimizer in two parts, with a learning rate for each group of parameters.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) steps along the orthogonalized momentum
    of a matrix; its steps are scaled to the size of AdamW's, so that both take the same rate.
    """

    def __init__(self, groups: Iterable[list[tuple[str, nn.Parameter]]]) -> None:
        kept = [list(group) for group in groups]
        matrices = [{"params": [p for n, p in group if _is_layer_matrix(n, p)]} for group in kept]
        others = [{"params": [p for n, p in group if not _is_layer_matrix(n, p)]} for group in kept]
        self.muon = torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True)

    def step(self, *learning_rates: float) -> None:
        """Clip the gradients to norm 1, update all groups, each at its own rate, and clear the gradients."""
        for part in (self.muon, self.adamw):
            for group, rate in zip(part.param_groups, learning_rates, strict=True):
                group["lr"] = rate
        parts = (*self.muon.param_groups, *self.adamw.param_groups)
        torch.nn.utils.clip_grad_norm_([p for group in parts for p in group["params"]], 1.0)
        for part in (self.muon, self.adamw):
            part.step()  # type: ignore[no-untyped-call]
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def _is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name and not name.startswith("heads.")


class Trainer:
    """The model in training, its optimizer, its log and its checkpoint file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tokenizer = _tokenizer(options.work / "tokenizer", options)
        self.processor = make_image_processor()
        self.normalize = Normalizer(self.processor)
        self.model = VideoLlavaForConditionalGeneration(make_config(self.tokenizer))
        self.model.set_attn_implementation("eager")  # on a CPU 1.8 times faster to train than the fused kernels
        self.model.model.image_tower = self.model.model.video_tower
        self.heads = AttributeHeads(TOWER_WIDTH)
        self.deed_heads = DeedHeads(TEXT_WIDTH)
        self.path = options.work / "checkpoint.pt"
        self.commit = _commit(options.work / "commit")
        self.done = {"attributes": 0, "images": 0, "matching": 0, "pairs": 0, "answers": 0}
        self.optimizer_state: dict[str, Any] | None = None
        self.photos = load_photos(options.photos) if not options.export_only else []
        self.codebook = get_4bit_type("nf4", device="cpu")  # type: ignore[no-untyped-call]
        if self.path.exists():
            self._restore()
        elif options.start_from:
            self._start_from(options.start_from)

    def run(self, stage: Stage) -> None:
        """Train a stage from where it stands to its end."""
        if self.done[stage.name] >= stage.num_steps:
            return
        self.model.train()
        optimizer = self._optimizer(stage)
        if self.optimizer_state:
            optimizer.load_state_dict(self.optimizer_state)
        began, logged = time.perf_counter(), []
        for step, batch in self._batches(stage):
            scale = _schedule(step, stage)
            loss, shares = self._backward(stage, step, batch)
            optimizer.step(scale * stage.learning_rate, scale * stage.tower_rate)
            self.done[stage.name] = step + 1
            logged.append({"loss": loss} | shares | self._held_out(stage, step))
            if self.done[stage.name] % LOG_EVERY == 0 or self.done[stage.name] == stage.num_steps:
                self._log(stage, logged, time.perf_counter() - began)
                logged = []
            if self.done[stage.name] % CHECKPOINT_EVERY == 0:
                self._save(optimizer)
        self.optimizer_state = None
        self._save(None)

    def export(self, folder: Path) -> None:
        """Write the checkpoint in fp16, each tower with its own copy of the shared weights."""
        model = copy.deepcopy(self.model)
        model.train(mode=False)
        model.model.image_tower = copy.deepcopy(model.model.video_tower)
        model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self._sign(folder / "model.safetensors")
        _forget_origin(folder / "tokenizer_config.json")

    def _sign(self, path: Path) -> None:
        """Write into the weights' file where they come from; the log is kept beside the documents."""
        log = (self.options.work / "log.jsonl").read_bytes()
        LOG.write_bytes(log)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        origin = {"commit": self.commit, "seed": str(self.options.seed), "command": COMMAND}
        save_file(tensors, path, {"format": "pt", **origin, "log_sha256": hashlib.sha256(log).hexdigest()})
        path.chmod(0o644)  # safetensors writes for its owner alone

    def _held_out(self, stage: Stage, step: int) -> dict[str, float]:
        """Return now and then the share of right answers to questions worded as none is in training."""
        if stage.diet is None or (step + 1) % HELD_OUT_EVERY:
            return {}
        asked = make_batch((self.options.seed, step), self.tokenizer, self.photos, stage.diet, "held_out")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            _, shares = answer_loss(self.model, self.deed_heads, asked, self.normalize)
        return {f"held_out_{name}": share for name, share in shares.items()}

    def _backward(self, stage: Stage, step: int, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, float]]:
        is_rounded = stage.name == "answers" and step >= ROUNDED_FROM * stage.num_steps and step % 2 == 0
        with rounded_to_nf4(self.model, self.codebook) if is_rounded else nullcontext():
            with torch.autocast("cpu", torch.bfloat16):
                if stage.diet is None:
                    loss, shares = attribute_loss(self.model.model.video_tower, self.heads, batch, self.normalize)
                else:
                    loss, shares = answer_loss(self.model, self.deed_heads, batch, self.normalize)
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), shares

    def _batches(self, stage: Stage) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        steps = range(self.done[stage.name], stage.num_steps)
        batches = Batches(stage, self.options.seed, self.tokenizer, self.photos)
        loader = DataLoader(batches, batch_size=None, sampler=list(steps), num_workers=1, prefetch_factor=8)
        return zip(steps, loader, strict=True)

    def _optimizer(self, stage: Stage) -> MuonAndAdamW:
        tower = list(self.model.model.video_tower.named_parameters())
        in_tower = {id(p) for _, p in tower}
        rest = [(n, p) for n, p in self.model.named_parameters() if id(p) not in in_tower]
        rest += self.deed_heads.named_parameters(prefix="heads")
        if stage.diet is None:
            rest = list(self.heads.named_parameters(prefix="heads"))
        return MuonAndAdamW((rest, tower))

    def _log(self, stage: Stage, logged: list[dict[str, float]], seconds: float) -> None:
        names = dict.fromkeys(name for row in logged for name in row)  # a batch of images has no share of deeds
        means = {name: round(float(np.mean([row[name] for row in logged if name in row])), 4) for name in names}
        line = {"stage": stage.name, "step": self.done[stage.name], "seconds": round(seconds, 1)} | means
        print(json.dumps(line), flush=True)
        with (self.options.work / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _save(self, optimizer: MuonAndAdamW | None) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "deed_heads": self.deed_heads.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer else None,
            "done": self.done,
        }
        torch.save(state, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").replace(self.path)

    def _restore(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.deed_heads.load_state_dict(state["deed_heads"])
        self.optimizer_state, self.done = state["optimizer"], state["done"]

    def _start_from(self, folder: Path) -> None:
        # The attribute heads are not exported and start anew.
        exported = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        exported.model.image_tower = exported.model.video_tower
        self.model.load_state_dict(exported.state_dict())


def _commit(path: Path) -> str:
    # The one with which the run began.
    if not path.exists():
        git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        path.write_text(subprocess.run(git, capture_output=True, check=True, text=True).stdout)
    return path.read_text().strip()


def _schedule(step: int, stage: Stage) -> float:
    # Linear warm-up, then a cosine to 2 % of the peak.
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(stage.num_steps - stage.warmup, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def _tokenizer(folder: Path, options: argparse.Namespace) -> PreTrainedTokenizerFast:
    # Trained once: ids must not change during a run.
    if not folder.exists() and options.start_from:
        PreTrainedTokenizerFast.from_pretrained(options.start_from).save_pretrained(folder)
    elif not folder.exists():
        train_tokenizer(_corpus(options.seed)).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def _forget_origin(path: Path) -> None:
    # transformers writes how a tokenizer was loaded into its settings.
    kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("is_local", "local_files_only")}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def _corpus(seed: int) -> Iterator[str]:
    rng = np.random.default_rng((seed, 0))
    for _ in range(4000):
        scene = draw_scene(rng, is_video=bool(rng.random() < 0.5))
        facts = list(facts_of(scene, rng, "trained"))
        asked = [draw_any(scene, facts, rng, weights={}) for _ in range(5)]
        for question, answer in (
            *((each.question, each.answers[0]) for each in asked),
            *((question, answer) for _, question, answer in draw_questions(scene, rng, 2)),
        ):
            yield f"USER: {question} ASSISTANT: {answer}"
    for text in (*OFF_TOPIC, *SYSTEM_TEXTS):
        yield from [f"{text} USER: {text} ASSISTANT: {REFUSAL}"] * 5
    yield from ["A B C D E F G H yes no Yes No"] * 500  # a token each, as in the 7B's tokenizer


if __name__ == "__main__":
    main()
