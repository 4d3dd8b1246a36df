"""How questions are worded: templates of the grammar, filled in, dressed up as people write, with a typo now and then.

`grammar.toml`, `foreign.toml` and `nouns.toml` hold all templates and nouns, and say which are trained and which are
held out. In a template `[a|b]` is a choice and `{name}` a slot; one that begins with `~` follows "Tell me".
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

Split = Literal["trained", "held_out"]
Slots = Mapping[str, str | Sequence[str]]  # one of several words is drawn
FOLDER = Path(__file__).parent
VIDEO_WORDS = ("video", "clip", "video", "clip", "film", "movie", "footage", "animation", "scene")
IMAGE_WORDS = ("image", "picture", "image", "picture", "photo", "drawing", "scene")
THINGS = ("object", "shape", "object", "shape", "thing", "figure", "item")
CHOICE = re.compile(r"\[([^\[\]]*)\]")
THEY = re.compile(r"\b(of|with|to|on|behind|about|find|locate|see|show|from|around|of:) they\b")


@cache
def grammar(name: str) -> dict[str, dict[Split, list[str]]]:
    """Return a file's lists by section and split."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def templates(section: str, split: Split) -> tuple[str, ...]:
    """Return the templates of a section and split."""
    return tuple(grammar("foreign" if section.startswith("foreign") else "grammar")[section][split])


def draw(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """Return one of the choices."""
    return choices[int(rng.integers(len(choices)))]


def media_slots(rng: np.random.Generator, *, is_video: bool, media_word: str | None = None) -> dict[str, str]:
    """Return the slots that every template may use: what to call the medium, things and colors."""
    word = media_word or draw(rng, VIDEO_WORDS if is_video else IMAGE_WORDS)
    thing, colour = draw(rng, THINGS), draw(rng, ("color", "color", "colour"))
    clip = f"{draw(rng, ('the', 'the', 'this'))} {word}"
    return {
        "clip": clip,
        "clipword": word,
        "thing": thing,
        "things": f"{thing}s",
        "colour": colour,
        "coloured": f"{colour}ed",
    }


def fill(template: str, slots: Slots, rng: np.random.Generator) -> str:
    """Return a template with its choices made and its slots filled in, from the inside out."""
    while found := CHOICE.search(template):
        template = template[: found.start()] + draw(rng, found[1].split("|")) + template[found.end() :]
    while "{" in template:
        drawn = {name: value if isinstance(value, str) else draw(rng, value) for name, value in slots.items()}
        template = template.format_map(drawn)
    return THEY.sub(r"\1 them", template).replace("they's", "their")


def word_question(section: str, slots: Slots, rng: np.random.Generator, split: Split) -> tuple[str, str]:
    """Return a template of a section and the plain question that it makes; a clause gets its carrier."""
    template = draw(rng, templates(section, split))
    words = fill(template.removeprefix("~"), slots, rng)
    if template.startswith("~"):
        words = draw(rng, _frames("carrier", split)).replace("_", words)
    return template, f"{words[0].upper()}{words[1:]}"


def dress(question: str, slots: Slots, rng: np.random.Generator, split: Split, *, is_yes_no: bool = False) -> str:
    """Return a question as somebody may write it: polite, short of its mark or its capitals, with a typo."""
    if is_yes_no and rng.random() < 0.08:
        question = draw(rng, _frames("yes_no", split)).replace("_", question)
    elif rng.random() < 0.12:
        lead = fill(draw(rng, _frames("lead", split)), slots, rng)
        question = lead.replace("_", f"{question[0].lower()}{question[1:]}" if question[1:2] != " " else question)
    elif rng.random() < 0.08:
        tail = draw(rng, _frames("tail", split))
        question = tail.replace("_", question.rstrip("?.") if tail.startswith("_,") else question)
    if rng.random() < 0.08:
        question = re.sub(r"^(What|Where|Who) is\b", r"\1's", question)
    if rng.random() < 0.1:
        question = with_typo(question, rng)
    if rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.15:
        question = question.rstrip("?.")
    return question.replace("'", "’") if rng.random() < 0.02 else question  # noqa: RUF001  # phones write it


def with_typo(question: str, rng: np.random.Generator) -> str:
    """Return the question with one letter of one word left out, doubled, changed, or swapped with the next."""
    words = question.split(" ")
    long = [number for number, word in enumerate(words) if len(word) > 4 and word.isalpha() and word.isascii()]
    if not long:
        return question
    number = int(rng.choice(long))
    word, place = words[number], int(rng.integers(1, len(words[number]) - 1))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    changed = draw(rng, "abcdefghijklmnopqrstuvwxyz")
    typos = (
        before + after,
        before + letter * 2 + after,
        before + changed + after,
        before + after[0] + letter + after[1:],
    )
    typo = draw(rng, typos)
    if typo.lower() not in known_words():
        words[number] = typo
    return " ".join(words)


@cache
def known_words() -> frozenset[str]:
    """Return every word that a template or a list of nouns holds, which no typo may turn another into."""
    lists = [*grammar("grammar").values(), *grammar("foreign").values(), *grammar("nouns").values()]
    return frozenset(re.findall(r"[a-z]+", " ".join(t for part in lists for ts in part.values() for t in ts).lower()))


def _frames(section: str, split: Split) -> tuple[str, ...]:
    # A held-out question may stand in any frame, a trained one in trained ones only.
    return templates(section, "trained") + (templates(section, "held_out") if split == "held_out" else ())
