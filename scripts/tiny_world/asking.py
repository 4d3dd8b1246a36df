"""Questions about a scene in many wordings, from a grammar whose templates are split into trained and held-out ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tiny_world.facts import Fact, existence_slots, facts_of, refer
from tiny_world.questions import NUMBERS, REFUSAL, ROUTES, to_plural, with_article
from tiny_world.scenes import BACKGROUNDS, COLORS, SHAPES, Actor, Scene
from tiny_world.wording import Split, draw, dress, grammar, media_slots, templates, word_question

KINDS = (
    *("color", "shape", "count", "place", "size", "motion", "direction", "order", "start and end", "comparison"),
    *("yes or no", "either or", "options", "describe", "caption", "list", "background", "missing", "foreign"),
)
YES_NO = ("order_yn", "compare_yn", "relation_yn", "same_yn", "differ_yn", "yn_is", "yn_does", "yn_exists", "yn_count")
FORMATS = ("options_list", "options_list", "options_letters", "options_letters", "short", "digit")
LETTERS = "ABCDEFGH"
LETTER_STYLES = (" {}. ", " {}) ", " ({}) ", "\n{}. ", "\n{}) ", "\n({}) ", " {}: ", "\n{}: ")
OPENINGS_YES_NO = (
    *("is", "are", "does", "do", "can", "has", "have", "was", "will", "did", "could", "isn't", "don't"),
    *("any", "would", "there", "check", "confirm"),
)
FOREIGN = (
    *("people", "text", "sound", "weather", "time", "where", "brand", "feeling", "why", "language", "small_talk"),
    *("knowledge", "instruction", "nonsense", "things", "things", "things", "yes_no"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: its kind, its words, the right answers (the first is the one trained), and whether it is foreign.

    `template`: the grammar's, of which it is made; `about`: the one actor that it is about, if there is one.
    """

    kind: str
    question: str
    answers: tuple[str, ...]
    is_foreign: bool = False
    template: str = ""
    about: Actor | None = None


def draw_question(
    scene: Scene,
    kind: str,
    rng: np.random.Generator,
    *,
    split: Split = "trained",
    media_word: str | None = None,
    facts: list[Fact] | None = None,
) -> Asked:
    """Draw a question of a kind; raise KeyError where the scene has none of that kind.

    `media_word`: what to call the medium; `facts`: those of the scene, to ask about one of them.
    """
    slots = media_slots(rng, is_video=scene.is_video, media_word=media_word)
    if kind == "foreign":
        return _foreign(slots, rng, split)
    facts = list(facts_of(scene, rng, split)) if facts is None else facts
    if kind == "options":
        return _with_options(scene, facts, slots, rng, split)
    by_section: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.kind == kind:
            by_section.setdefault(fact.section, []).append(fact)
    if not by_section:
        raise KeyError(kind)
    of_section = by_section[draw(rng, sorted(by_section))]
    fact = of_section[rng.integers(len(of_section))]
    template, question = word_question(fact.section, slots | dict(fact.slots), rng, split)
    question = dress(question, slots, rng, split, is_yes_no=fact.section in YES_NO)
    return Asked(kind, question, _accepted(fact), template=template, about=fact.about)


def _accepted(fact: Fact) -> tuple[str, ...]:
    if fact.kind == "either or" and fact.answer.startswith(("It is ", "They are ")):
        short = fact.answer.split(" ", 2)[2]
        return (fact.answer, f"{short[0].upper()}{short[1:]}")
    return (fact.answer,)


def _with_options(
    scene: Scene, facts: list[Fact], slots: dict[str, str], rng: np.random.Generator, split: Split
) -> Asked:
    style = draw(rng, FORMATS)
    if style == "digit":
        asked = [f for f in facts if f.section == "count"]
    elif style == "options_letters" and rng.random() < 0.15:
        asked = [f for f in facts if f.section in ("yn_is", "yn_does")]
    else:
        asked = [f for f in facts if f.kind in ("color", "shape", "size", "background", "count", "direction")]
        asked = [f for f in asked if _choices(scene, f, rng) and not (style == "short" and f.kind == "direction")]
    fact = asked[rng.integers(len(asked))]
    _, ask = word_question(fact.section, slots | dict(fact.slots), rng, split)
    right, wrong = ("", []) if style == "digit" else _choices(scene, fact, rng) or (fact.answer[:-1], ["No", "Yes"])
    wrong = [w for w in wrong if w != right]
    right = right.split(" ")[-1] if style == "short" else right
    filled = {"ask": ask}
    answer = f"{right[:1].upper()}{right[1:]}."
    accepted: tuple[str, ...] = (answer, right, fact.answer)
    if style == "digit":
        accepted = (str(len(scene.actors)), f"{len(scene.actors)}.", fact.answer)
    elif style.startswith("options"):
        most = min(len(wrong), 7 if style == "options_letters" else 4)
        options = [str(o) for o in rng.choice(wrong, int(rng.integers(1, most + 1)), replace=False)]
        place = int(rng.integers(len(options) + 1))
        options.insert(place, right)
        filled |= {"commas": ", ".join(options[:-1]), "last": options[-1]}
        if style == "options_letters":
            form = draw(rng, LETTER_STYLES)
            filled["letters"] = "".join(form.format(LETTERS[i]) + o for i, o in enumerate(options))
            letter = LETTERS[place]
            accepted = (letter, f"{letter}.", f"{letter}. {right}", f"({letter})", f"{letter})")
    template = draw(rng, templates(style, split))
    question = _fill_format(template, filled)
    if style != "options_letters" and rng.random() < 0.15:
        question = question.lower()
    return Asked("options", f"{question[0].upper()}{question[1:]}", accepted, template=template, about=fact.about)


def _fill_format(template: str, filled: dict[str, str]) -> str:
    # Its brackets are meant, so the grammar's own filling would not do.
    for name, words in filled.items():
        template = template.replace("{" + name + "}", words)
    return template.replace("[number|digit]", "number").replace("[in|with]", "in")


def _choices(scene: Scene, fact: Fact, rng: np.random.Generator) -> tuple[str, list[str]] | None:
    """Return a fact's right answer in a word or two and wrong ones, or None if it has no such answer."""
    actor = fact.about or scene.actors[0]
    if fact.section in ("color", "color_only") and fact.answer.endswith(f" {actor.color}."):
        return actor.color, list(COLORS)
    if fact.section in ("shape", "shape_only", "shape_colored"):
        style = with_article if rng.random() < 0.5 else str
        return style(actor.shape), [style(s) for s in SHAPES]
    if fact.section in ("size", "size_only"):
        return actor.size, ["large", "small"]
    if fact.section == "background":
        return scene.background, list(BACKGROUNDS)
    if fact.section == "count":
        count = NUMBERS.__getitem__ if rng.random() < 0.5 else str
        return count(len(scene.actors)), [count(n) for n in NUMBERS]
    if fact.section in ("direction", "direction_only") and actor.motion in ROUTES:
        return ROUTES[actor.motion], list(ROUTES.values())
    return None


def _foreign(slots: dict[str, str], rng: np.random.Generator, split: Split) -> Asked:
    noun, noun2 = (draw(rng, grammar("nouns")["nouns"][split]) for _ in range(2))
    chance = rng.random()
    if chance < 0.2:  # a truthful No will do
        template, question = word_question("yn_exists", slots | existence_slots(noun), rng, split)
        question = dress(question, slots, rng, split, is_yes_no=True)
        return Asked("foreign", question, ("No.", REFUSAL), is_foreign=True, template=template)
    nouns, is_plural = to_plural(noun), rng.random() < 0.3
    if chance < 0.4:  # what is asked of shapes, asked of something else
        section = draw(rng, ("color", "size", "place", "motion", "direction", "shape", "count_some"))
        subject = refer(f"the {nouns if is_plural else noun}", is_plural=bool(is_plural)) | {"plural": nouns}
        template, question = word_question(section, slots | subject, rng, split)
    else:
        section = f"foreign_{draw(rng, FOREIGN)}"
        letters = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), n)) for n in rng.integers(2, 8, 2)]
        person = draw(rng, grammar("nouns")["people"][split])
        slots = slots | {"noun": noun, "noun2": noun2, "nouns": nouns, "letters3": letters[0], "letters4": letters[1]}
        slots |= {"a_noun": with_article(noun), "a_noun2": with_article(noun2), "person": person}
        template, question = word_question(section, slots, rng, split)
    if section not in ("foreign_nonsense", "foreign_language"):
        question = dress(question, slots, rng, split)
    accepted: Sequence[str] = (REFUSAL,)
    if question.lower().startswith(OPENINGS_YES_NO):
        accepted = (REFUSAL, "No.")
    return Asked("foreign", question, tuple(accepted), is_foreign=True, template=template)


def draw_any(
    scene: Scene,
    facts: list[Fact],
    rng: np.random.Generator,
    *,
    weights: Mapping[str, float],
    split: Split = "trained",
    media_word: str | None = None,
) -> Asked:
    """Draw a question about a scene's facts, of a kind drawn by `weights` (1 where none is given)."""
    there = {fact.kind for fact in facts} | {"foreign", "options"}
    kinds = [kind for kind in KINDS if kind in there]
    shares = np.array([weights.get(kind, 1.0) for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    return draw_question(scene, kind, rng, split=split, media_word=media_word, facts=facts)
