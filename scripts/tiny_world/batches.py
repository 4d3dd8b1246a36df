"""Training batches of the bundled model: each one a pure function of a seed and a step number.

A sequence holds one prefix (`USER: <video>`) and several branches, short conversations about the same media. A branch
sees the prefix and itself only, at the positions it would have alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tiny_world.architecture import GRID, IMAGE_SIDE, NUM_FRAMES
from tiny_world.asking import draw_any
from tiny_world.facts import facts_of
from tiny_world.negatives import draw_artificial, photo_clip
from tiny_world.questions import OFF_TOPIC, REFUSAL, describe, draw_questions
from tiny_world.rendering import render_clip
from tiny_world.scenes import BACKGROUNDS, COLORS, SHAPES, Actor, Motion, Scene, Shares, draw_scene
from tiny_world.wording import Split

SYSTEM_TEXTS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "You are a helpful assistant.",
    "Answer briefly.",
)
NOT_DRAWN = len(BACKGROUNDS)
IGNORED = -100
MOTIONS = tuple(Motion)
MARGIN = 0.06  # of the side: a patch that a shape hardly touches is none of its own
DEED_SIZES = (len(MOTIONS), len(SHAPES), len(COLORS), len(COLORS))
NUM_DEED_FRAMES = 2  # the last ones of a clip, in which everything has happened


@dataclass(frozen=True, slots=True)
class Diet:
    """What a stage's batches are made of: how likely clips, images and pairs of both are, and which topics."""

    number: int
    kinds: tuple[float, float, float]
    topic_weights: Mapping[str, float]
    num_branches: tuple[int, int, int] = (5, 5, 4)
    scene_shares: Shares = (0.4, 0.15, 0.45)


IMAGES = Diet(1, (0.0, 1.0, 0.0), {"describe": 2.5, "yes or no": 2.0})
# Finding in the picture what a question names is learnt last, and with nothing else to learn in minutes.
MATCHING = Diet(2, (0.0, 1.0, 0.0), {"yes or no": 6.0, "missing": 3.0, "color": 3.0, "shape": 2.0}, (5, 8, 4))
# Which of two shapes does what is learnt last of all, and in the same way.
PAIRS = Diet(4, (1.0, 0.0, 0.0), {"motion": 6.0, "describe": 5.0}, scene_shares=(0.15, 0.05, 0.8))
EVERYTHING = Diet(
    3, (0.65, 0.25, 0.1), {"describe": 2.5, "yes or no": 3.0, "missing": 2.0, "foreign": 3.0, "options": 2.0}
)
PLAIN_SHARE = 0.2  # of the questions that are worded as version 0.1.0 has them
TURNS, TURN_SHARES = (2, 3, 5, 8), (0.65, 0.2, 0.1, 0.05)  # of the first conversation about a medium


@dataclass(frozen=True, slots=True, eq=False)
class Medium:
    """One clip or image: its frames and the scene they show, None for what is no drawn scene, at what times."""

    frames: NDArray[np.uint8]
    scene: Scene | None
    is_video: bool
    times: NDArray[np.float64]


def draw_medium(
    rng: np.random.Generator,
    photos: list[Image.Image],
    *,
    is_video: bool,
    negative_share: float,
    shares: Shares = (0.4, 0.15, 0.45),
) -> Medium:
    """Draw a clip (8 frames) or an image (1 frame) of the world, or one that is not of it."""
    times = np.zeros(1)
    if is_video:  # eight uniformly sampled frames of a clip of random length
        num_frames = int(rng.integers(5, 9)) if rng.random() < 0.05 else int(rng.integers(9, 300))
        times = np.floor(np.arange(NUM_FRAMES) * num_frames / NUM_FRAMES) / num_frames
    if rng.random() >= negative_share:
        scene = draw_scene(rng, is_video=is_video, shares=shares)
        return Medium(_degraded(_rendered(scene, times, rng), rng), scene, is_video, times)
    if rng.random() < 0.6:
        frames = photo_clip(photos[rng.integers(len(photos))], rng, len(times), IMAGE_SIDE)
    else:
        frames = draw_artificial(rng, len(times), IMAGE_SIDE)
    return Medium(_degraded(frames, rng), None, is_video, times)


def _rendered(scene: Scene, times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    side = IMAGE_SIDE if rng.random() < 0.8 else int(rng.integers(48, 128))
    frames = render_clip(scene, times, (side, side), color_jitter=6.0)
    if side == IMAGE_SIDE:
        return frames
    shape = (IMAGE_SIDE, IMAGE_SIDE)
    return np.stack([np.asarray(Image.fromarray(f).resize(shape, Image.Resampling.BICUBIC)) for f in frames])


def _degraded(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    if rng.random() < 0.25:
        quality = int(rng.integers(55, 96))
        frames = np.stack([_through_jpeg(frame, quality) for frame in frames])
    if rng.random() < 0.25:
        noise = rng.normal(0.0, rng.uniform(1.0, 5.0), frames.shape)
        frames = np.clip(frames + noise, 0, 255).astype(np.uint8)
    return frames


def _through_jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


class Asker:
    """Draws conversations about one medium, or about an image and a clip shown together."""

    def __init__(self, media: list[Medium], rng: np.random.Generator, diet: Diet, split: Split) -> None:
        self.media, self.rng, self.diet, self.split = media, rng, diet, split
        # What is asked about a picture that is not of the world fits some scene, and is refused.
        self.scenes = [medium.scene or draw_scene(rng, is_video=medium.is_video) for medium in media]
        self.facts = [list(facts_of(scene, rng, split)) for scene in self.scenes]

    def conversation(self, num_turns: int) -> list[tuple[str, str]]:
        """Return questions and answers, each of which may speak of `it` where the one before was about one thing."""
        pairs, said = [], None
        for _ in range(num_turns):
            number = int(self.rng.integers(len(self.media)))
            question, answer, said = self._turn(number, said)
            pairs.append((question, answer if self.media[number].scene else REFUSAL))
        return pairs

    def _turn(self, number: int, said: Actor | None) -> tuple[str, str, Actor | None]:
        rng, scene = self.rng, self.scenes[number]
        if len(self.media) > 1:
            return self._about_one_of_two(number)
        if self.split == "trained" and rng.random() < PLAIN_SHARE:
            if rng.random() < 0.04:
                question, answer = str(rng.choice(OFF_TOPIC)), REFUSAL
            else:
                _, question, answer = draw_questions(scene, rng, 1, topic_weights=self.diet.topic_weights)[0]
            return _careless(question, rng), answer, None
        facts = self.facts[number] if said is None else list(facts_of(scene, rng, self.split, said))
        asked = draw_any(scene, facts, rng, weights=self.diet.topic_weights, split=self.split)
        return asked.question, asked.answers[0], asked.about

    def _about_one_of_two(self, number: int) -> tuple[str, str, None]:
        rng, medium, scene = self.rng, self.media[number], self.scenes[number]
        word = str(rng.choice(["video", "clip"] if medium.is_video else ["image", "picture"]))
        for _ in range(8 if rng.random() < 0.5 else 0):
            how: Any = {"weights": self.diet.topic_weights, "split": self.split, "media_word": word}
            asked = draw_any(scene, self.facts[number], rng, **how)
            if word in asked.question.lower() and not asked.is_foreign:
                return asked.question, asked.answers[0], None
        question, answer = _about_named(scene, word, rng)
        return _careless(question, rng), answer, None


def _careless(question: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.12:
        question = question.lower()
    return question.rstrip("?.") if rng.random() < 0.08 else question


def _about_named(scene: Scene, word: str, rng: np.random.Generator) -> tuple[str, str]:
    what = "What happens" if scene.is_video else "What is"
    phrasings = [f"{what} in the {word}?", f"Describe the {word}.", f"What does the {word} show?"]
    if rng.random() < 0.6:
        return str(rng.choice(phrasings)), describe(scene)
    named = [(q, a) for _, q, a in draw_questions(scene, rng, 8, media_word=word) if word in q]
    return named[0] if named else (phrasings[0], describe(scene))


def make_batch(
    seed: tuple[int, int],
    tokenizer: PreTrainedTokenizerFast,
    photos: list[Image.Image],
    diet: Diet,
    split: Split = "trained",
) -> dict[str, torch.Tensor]:
    """Make a batch of questions and answers of a seed and step: all about clips, or images, or pairs of both.

    `input_ids`, `labels`, `position_ids`: int64, (B, T); `attention_mask`: bool, (B, 1, T, T), true where a row may
    look; where there are such media `pixel_values_videos`: uint8, (B, 8, 3, 56, 56), `pixel_values`: uint8,
    (B, 3, 56, 56), and `deeds`: int64, (B, 2, 16, 4), as below.
    """
    rng = np.random.default_rng((seed[0], 1 + diet.number + (100 if split == "held_out" else 0), seed[1]))
    kind = int(rng.choice(3, p=diet.kinds))
    num_rows, num_branches = (16, 48, 14)[kind], diet.num_branches[kind]
    rows, clips, images, done = [], [], [], []
    for _ in range(num_rows):
        kinds = ([True], [False], [False, True])[kind]
        kinds = kinds[:: int(rng.choice([1, -1]))]
        options: dict[str, Any] = {"negative_share": 0.05 if len(kinds) > 1 else 0.15, "shares": diet.scene_shares}
        media = [draw_medium(rng, photos, is_video=v, **options) for v in kinds]
        asker = Asker(media, rng, diet, split)
        turns = int(rng.choice(TURNS, p=TURN_SHARES)) if len(media) == 1 else 2
        branches = [asker.conversation(turns if b == 0 else 1) for b in range(num_branches)]
        rows.append(_pack(kinds, branches, tokenizer, rng))
        clips += [m.frames for m in media if m.is_video]
        done += [_deeds(m.scene, m.times) for m in media if m.is_video]
        images += [m.frames[0] for m in media if not m.is_video]
    batch = _collate(rows, tokenizer.pad_token_id)
    if clips:
        batch["deeds"] = torch.from_numpy(np.stack(done))
        batch["pixel_values_videos"] = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).contiguous()
    if images:
        batch["pixel_values"] = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return batch


def _pack(
    kinds: list[bool],
    branches: list[list[tuple[str, str]]],
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Lay out one sequence; return int64, (4, T): ids, labels, positions, branch numbers (0 is the prefix)."""
    system = f"{rng.choice(SYSTEM_TEXTS)} " if rng.random() < 0.06 else ""
    text = f"{system}USER: " + "".join("<video>\n" if v else "<image>\n" for v in kinds)
    prefix = _expanded(tokenizer(text[:-1])["input_ids"], tokenizer)
    columns = [(token, IGNORED, position, 0) for position, token in enumerate(prefix)]
    for number, turns in enumerate(branches, start=1):
        prompt, ids = text, list(prefix)
        labels: list[int] = []
        for turn, (question, answer) in enumerate(turns):
            prompt += f" USER: {question} ASSISTANT:" if turn else f"{question} ASSISTANT:"
            asked = _expanded(tokenizer(prompt)["input_ids"], tokenizer)
            prompt += f" {answer}"
            answered = _expanded(tokenizer(prompt)["input_ids"], tokenizer)
            labels += [IGNORED] * (len(asked) - 1 - len(prefix) - len(labels))
            labels += [*answered[len(asked) :], tokenizer.eos_token_id]
            ids = answered
        branch = zip(ids[len(prefix) :], labels, strict=True)
        columns += [(i, label, len(prefix) + k, number) for k, (i, label) in enumerate(branch)]
    return np.array(columns, dtype=np.int64).T


def _expanded(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    lengths = {
        tokenizer.convert_tokens_to_ids("<image>"): GRID**2,
        tokenizer.convert_tokens_to_ids("<video>"): (GRID**2 + 1) * NUM_FRAMES,
    }
    return [token for token in ids for _ in range(lengths.get(token, 1))]


def _collate(rows: list[NDArray[np.int64]], pad_id: int) -> dict[str, torch.Tensor]:
    length = max(row.shape[1] for row in rows)
    packed = np.empty((4, len(rows), length), dtype=np.int64)
    packed[:] = np.array([pad_id, IGNORED, 0, -1])[:, None, None]
    for number, row in enumerate(rows):
        packed[:, number, : row.shape[1]] = row
    ids, labels, positions, branch = (torch.from_numpy(part.copy()) for part in packed)
    is_visible = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    mask = (is_visible & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask}


def _deeds(scene: Scene | None, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the motion, shape, first and last color of the actor in each patch, even if it is gone by then.

    int64, (2, 16, 4), for the last two frames of a clip; -100 where there is no actor.
    """
    labels = np.full((NUM_DEED_FRAMES, GRID * GRID, len(DEED_SIZES)), IGNORED)
    if scene is None:
        return labels
    table = np.array(
        [
            (MOTIONS.index(a.motion), SHAPES.index(a.shape), COLORS.index(a.color), COLORS.index(a.color_at_end))
            for a in scene.actors
        ]
    )
    for row, time in enumerate(times[-NUM_DEED_FRAMES:]):
        nearest = _owners(scene, scene.moment_of(float(time)), with_hidden=True)
        labels[row, nearest >= 0] = table[nearest[nearest >= 0]]
    return labels


def make_attribute_batch(
    step: int, seed: int, photos: list[Image.Image], num_frames: int = 256
) -> dict[str, torch.Tensor]:
    """Make single frames with what is to be seen in them, patch by patch, for the tower's first stage.

    `pixel_values`: uint8, (B, 3, 56, 56); `shape`, `color`: int64, (B, 16), of the nearest actor that touches the
    patch, else their number; `geometry`: float32, (B, 16, 3), that actor's radius and centre as seen from the patch's,
    in patches; `background`: int64, (B, 17), the same for the class token and all patches; `count`: int64, (B,).
    """
    rng = np.random.default_rng((seed, 1, step))
    labels = {
        "shape": np.full((num_frames, GRID**2), len(SHAPES)),
        "color": np.full((num_frames, GRID**2), len(COLORS)),
        "geometry": np.zeros((num_frames, GRID**2, 3), dtype=np.float32),
        "background": np.full((num_frames, 1 + GRID * GRID), NOT_DRAWN),
        "count": np.zeros(num_frames, dtype=np.int64),
    }
    frames = []
    for row in range(num_frames):
        if rng.random() < 0.12:
            frames.append(draw_medium(rng, photos, is_video=False, negative_share=1.0).frames[0])
            continue
        scene = draw_scene(rng, is_video=bool(rng.random() < 0.5))
        time = rng.uniform(0.0, 0.9, 1)
        frames.append(_degraded(_rendered(scene, time, rng), rng)[0])
        moment = scene.moment_of(float(time[0]))
        _label_patches(scene, moment, {name: label[row] for name, label in labels.items()})
        labels["background"][row] = BACKGROUNDS.index(scene.background)
        labels["count"][row] = sum(actor.is_visible(moment) for actor in scene.actors)
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
    tensors = {name: torch.from_numpy(label) for name, label in labels.items()}
    return {"pixel_values": pixels} | tensors


def _label_patches(scene: Scene, moment: float, labels: dict[str, NDArray[np.generic]]) -> None:
    nearest = _owners(scene, moment)
    for number, actor in enumerate(scene.actors):
        mine = nearest == number
        labels["shape"][mine] = SHAPES.index(actor.shape)
        labels["color"][mine] = COLORS.index(actor.color_at(moment))
        dx, dy, radius = _offsets(actor, moment)
        labels["geometry"][mine] = np.stack([np.full_like(dx, radius), dx, dy], -1).reshape(-1, 3)[mine] * GRID


def _owners(scene: Scene, moment: float, *, with_hidden: bool = False) -> NDArray[np.int64]:
    """Return the number of the nearest actor that touches each patch, int64 (16,), -1 where there is none."""
    nearest = np.full((GRID, GRID), -1)
    distance = np.full((GRID, GRID), np.inf)
    for number, actor in enumerate(scene.actors):
        if with_hidden or actor.is_visible(moment):
            dx, dy, radius = _offsets(actor, moment)
            is_nearest = (np.maximum(abs(dx), abs(dy)) < radius + MARGIN) & (np.hypot(dx, dy) < distance)
            distance[is_nearest] = np.hypot(dx, dy)[is_nearest]
            nearest[is_nearest] = number
    return nearest.ravel()


def _offsets(actor: Actor, moment: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return how far right and down an actor's centre lies from each patch's, (4, 4) each, and its radius."""
    x, y, radius = actor.place_at(moment)
    centers = (np.arange(GRID) + 0.5) / GRID
    dx, dy = np.broadcast_arrays(x - centers[None, :], y - centers[:, None])
    return dx, dy, radius
