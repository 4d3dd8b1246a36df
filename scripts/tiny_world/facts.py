"""What can be asked about a scene: the section of the grammar that words it, what fills its slots, the true answer."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tiny_world.questions import (
    NUMBERS,
    ROUTES,
    describe,
    name_of,
    place_of,
    say_deed,
    say_list,
    say_sentence,
    to_plural,
    with_article,
)
from tiny_world.scenes import BACKGROUNDS, COLORS, DIRECTIONS, SHAPES, Actor, Motion, Scene
from tiny_world.wording import THINGS, Slots, Split, draw, grammar

BEGIN = ("at first", "at the start", "at the beginning", "in the beginning", "when it starts", "initially")
FINISH = ("at the end", "in the end", "at the end of {clip}", "finally", "when it ends", "after all that")
Verb = tuple[str, str, str]  # it does, doing it, who does it
VERBS: dict[Motion, tuple[Verb, ...]] = {
    Motion.GROW: (
        ("grow", "growing", "grows"),
        ("get bigger", "getting bigger", "gets bigger"),
        ("become larger", "becoming larger", "becomes larger"),
        ("get larger", "getting larger", "gets larger"),
    ),
    Motion.SHRINK: (
        ("shrink", "shrinking", "shrinks"),
        ("get smaller", "getting smaller", "gets smaller"),
        ("become smaller", "becoming smaller", "becomes smaller"),
    ),
    Motion.APPEAR: (("appear", "appearing", "appears"), ("show up", "showing up", "shows up")),
    Motion.DISAPPEAR: (
        ("disappear", "disappearing", "disappears"),
        ("vanish", "vanishing", "vanishes"),
        ("go away", "going away", "goes away"),
    ),
    Motion.TURN: (
        ("change {colour}", "changing {colour}", "changes {colour}"),
        ("turn another {colour}", "turning another {colour}", "turns another {colour}"),
        ("change its {colour}", "changing its {colour}", "changes its {colour}"),
    ),
    Motion.STILL: (
        ("stay still", "staying still", "stays still"),
        ("stand still", "standing still", "stands still"),
        ("stay in place", "staying in place", "stays in place"),
        ("rest", "resting", "rests"),
    ),
}
GOING = (("move", "moving", "moves"), ("go", "going", "goes"), ("travel", "travelling", "travels"))
WAYS = {
    Motion.RIGHT: ("to the right", "right", "rightwards", "from left to right", "from the left to the right"),
    Motion.LEFT: ("to the left", "left", "leftwards", "from right to left", "from the right to the left"),
    Motion.UP: ("up", "upwards", "to the top", "from bottom to top", "from the bottom to the top"),
    Motion.DOWN: ("down", "downwards", "to the bottom", "from top to bottom", "from the top to the bottom"),
    Motion.UP_RIGHT: ("up and to the right", "to the top right", "from the bottom left to the top right"),
    Motion.UP_LEFT: ("up and to the left", "to the top left", "from the bottom right to the top left"),
    Motion.DOWN_RIGHT: ("down and to the right", "to the bottom right", "from the top left to the bottom right"),
    Motion.DOWN_LEFT: ("down and to the left", "to the bottom left", "from the top right to the bottom left"),
}
AXES = (Motion.RIGHT, Motion.LEFT, Motion.UP, Motion.DOWN)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that can be asked, in any wording of its section, with its answer; `about` one actor, if it is."""

    kind: str
    section: str
    answer: str
    slots: Slots = field(default_factory=dict)
    about: Actor | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """An actor, or a group of equal ones, and how a question may refer to it."""

    actor: Actor
    number: int
    is_only: bool
    is_it: bool = False  # an earlier turn was about it

    @property
    def it_is(self) -> str:
        return "It is" if self.number == 1 else "They are"

    def slots(self, rng: np.random.Generator, *, hidden: str = "") -> dict[str, str]:
        """Return slots that refer to the subject without naming its `hidden` attribute."""
        end = "" if self.number == 1 else "s"
        shape = self.actor.shape if self.number == 1 else to_plural(self.actor.shape)
        thing = draw(rng, THINGS) + end
        names = [] if hidden == "shape" else [f"the {shape}"] * 3
        if hidden != "color" and self.actor.motion is not Motion.TURN:
            names += [f"the {self.actor.color} {thing}"] + ([] if end else [f"the {self.actor.color} one"])
            names += [] if hidden == "shape" else [f"the {self.actor.color} {shape}"]
        pronoun = "they" if end else "it"
        if self.is_only:
            names += [pronoun] * 4 + [f"the {thing}"] * 2
            names += [f"{draw(rng, ('these', 'those'))} {thing}"] if end else [f"{draw(rng, ('this', 'that'))} {thing}"]
        if self.is_it:
            names += [pronoun] * 4
        return refer(draw(rng, names or [f"the {thing}"]), is_plural=bool(end))


def refer(name: str, *, is_plural: bool = False) -> dict[str, str]:
    """Return the slots of a noun phrase or pronoun that stands as a sentence's subject."""
    forms = (
        ("are", "do", "have", "change", "move", "go")
        if is_plural
        else ("is", "does", "has", "changes", "moves", "goes")
    )
    named = dict(zip(("is", "does", "has", "changes", "moves", "goes"), forms, strict=True))
    its = {"it": "its", "they": "their"}.get(name, f"{name}'" if name.endswith("s") and is_plural else f"{name}'s")
    return named | {"it": name, "its": its, "is1": "is", "pro": "they" if is_plural else "it"}


def facts_of(scene: Scene, rng: np.random.Generator, split: Split, said: Actor | None = None) -> Iterator[Fact]:
    """Yield what can be asked about a scene after a turn about the actor `said`."""
    one = scene.is_group or len(scene.actors) == 1
    number = len(scene.actors) if scene.is_group else 1
    subjects = [Subject(a, number, one, a is said) for a in (scene.actors[:1] if one else scene.actors)]
    yield from _of_scene(scene, subjects, rng)
    for subject in subjects:
        yield from _of_subject(scene, subject, rng)
        yield from _yes_or_no(scene, subject, rng, split)
        yield from _either_or(scene, subject, rng)
    yield from _of_absent(scene, rng, split)
    if len(scene.actors) > 1:
        yield from _comparisons(scene, rng)
    if scene.is_video:
        yield from _of_time(scene, rng)


def _of_scene(scene: Scene, subjects: list[Subject], rng: np.random.Generator) -> Iterator[Fact]:
    section = "describe_clip" if scene.is_video else "describe_image"
    for _ in range(3):
        yield Fact("describe", section, describe(scene))
    yield Fact("caption", "caption", describe(scene))
    count = len(scene.actors)
    there_are = "There is one object." if count == 1 else f"There are {NUMBERS[count]} objects."
    yield Fact("count", "count", there_are)
    yield Fact("background", "background", f"The background is {scene.background}.", subjects[0].slots(rng))
    shape = draw(rng, [a.shape for a in scene.actors] if rng.random() < 0.6 else SHAPES)
    num_shaped = sum(a.shape == shape for a in scene.actors)
    there_are = f"There are {NUMBERS.get(num_shaped)} {to_plural(shape)}."
    there_are = there_are if num_shaped > 1 else f"There is {'one' if num_shaped else 'no'} {shape}."
    yield Fact("count", "count_some", there_are, {"plural": to_plural(shape)})
    if Motion.TURN not in [a.motion for a in scene.actors]:
        first = scene.actors[0]
        things = [with_article(name_of(a)) for a in scene.actors]
        if scene.is_group:
            things = [f"{NUMBERS[count]} {first.color} {to_plural(first.shape)}"]
        yield Fact("list", "list", say_sentence(say_list(things)))
        colors = say_sentence(say_list([a.color for a in scene.actors]))
        yield Fact("color", "color_all", f"{subjects[0].it_is} {first.color}." if len(subjects) == 1 else colors)
    if scene.is_video and len(subjects) > 1:
        yield Fact("motion", "motion_only", describe(scene))


def _of_subject(scene: Scene, subject: Subject, rng: np.random.Generator) -> Iterator[Fact]:
    actor, it_is = subject.actor, subject.it_is
    shape = f"{it_is} {with_article(actor.shape) if subject.number == 1 else to_plural(actor.shape)}."
    known = [("shape", shape)]
    known.append(("color", f"{it_is} {actor.color}." if actor.motion is not Motion.TURN else motion_of(subject)))
    if actor.motion is not Motion.TURN and subject.number == 1:
        yield Fact("shape", "shape_colored", shape, {"color": actor.color}, actor)
    if actor.motion not in (Motion.GROW, Motion.SHRINK):
        known.append(("size", f"{it_is} {actor.size}."))
    if scene.is_video:
        known.append(("motion", motion_of(subject)))
        known.append(("direction", direction_of(subject)))
    elif subject.number == 1:
        known.append(("place", f"It is {place_of(actor.start)}."))
    for kind, answer in known:
        yield Fact(kind, kind, answer, subject.slots(rng, hidden=kind), actor)
        if subject.is_only and rng.random() < 0.3:
            yield Fact(kind, f"{kind}_only", answer)


def motion_of(subject: Subject) -> str:
    """Return the sentence that says what a subject does."""
    if subject.number == 1:
        return say_sentence(f"it {say_deed(subject.actor)}")
    motion = subject.actor.motion
    return f"They move {ROUTES[motion]}." if motion in ROUTES else "They stay still."


def direction_of(subject: Subject) -> str:
    """Return the sentence that says which way a subject moves."""
    if subject.actor.motion in ROUTES:
        return motion_of(subject)
    return "It does not move." if subject.number == 1 else "They do not move."


def _of_absent(scene: Scene, rng: np.random.Generator, split: Split) -> Iterator[Fact]:
    shape = other(SHAPES, {a.shape for a in scene.actors}, rng)
    for kind in ("color", "size", *(("motion", "direction") if scene.is_video else ("place",))):
        yield Fact("missing", kind, f"There is no {shape}.", refer(f"the {shape}"))
    seen = scene.actors[rng.integers(len(scene.actors))]
    colors = {c for a in scene.actors for c in (a.color, a.color_at_end)}
    wrong = draw(rng, (other(COLORS, colors, rng), draw(rng, grammar("nouns")["colors"][split])))
    things = [(seen.shape, "Yes."), (shape, "No."), (draw(rng, grammar("nouns")["shapes"][split]), "No.")]
    things += [
        (f"{wrong} {seen.shape}", "No."),
        (f"{seen.color} {shape}", "No."),
        (f"{wrong} {draw(rng, THINGS)}", "No."),
    ]
    if seen.motion is not Motion.TURN:
        things += [(name_of(seen), "Yes."), (f"{seen.color} {draw(rng, THINGS)}", "Yes.")]
    for thing, answer in things:
        yield Fact("yes or no", "yn_exists", answer, existence_slots(thing))
    number = len(scene.actors)
    for asked in (number, int(rng.choice([n for n in NUMBERS if n not in (1, number)]))):
        if asked > 1:
            yield Fact("yes or no", "yn_count", "Yes." if asked == number else "No.", {"number": NUMBERS[asked]})


def existence_slots(thing: str) -> dict[str, str]:
    """Return the slots of a question whether there is such a thing."""
    return {"x": with_article(thing), "bare": thing, "plural": to_plural(thing)}


def _yes_or_no(scene: Scene, subject: Subject, rng: np.random.Generator, split: Split) -> Iterator[Fact]:
    actor = subject.actor
    article = with_article if subject.number == 1 else to_plural
    props = [("shape", article(actor.shape), True), ("shape", article(other(SHAPES, {actor.shape}, rng)), False)]
    props.append(("shape", article(draw(rng, grammar("nouns")["shapes"][split])), False))
    if actor.motion is not Motion.TURN:
        wrong = (
            draw(rng, grammar("nouns")["colors"][split]) if rng.random() < 0.2 else other(COLORS, {actor.color}, rng)
        )
        props += [("color", actor.color, True), ("color", wrong, False)]
    if actor.motion not in (Motion.GROW, Motion.SHRINK):
        big, small = (("large", "big"), ("small", "little"))[:: 1 if actor.size == "large" else -1]
        props += [("size", draw(rng, big), True), ("size", draw(rng, small), False)]
    if not scene.is_video and subject.number == 1:
        places = [place_of((x, y)) for x in (0.2, 0.5, 0.8) for y in (0.2, 0.5, 0.8)]
        here = place_of(actor.start)
        props += [("place", here, True), ("place", other(tuple(places), {here}, rng), False)]
    for hidden, prop, is_true in props:
        slots = subject.slots(rng, hidden=hidden) | {"prop": prop}
        yield Fact("yes or no", "yn_is", "Yes." if is_true else "No.", slots, actor)
    wrong = other(BACKGROUNDS, {scene.background}, rng)
    for background in (scene.background, wrong):
        answer = "Yes." if background == scene.background else "No."
        yield Fact("yes or no", "yn_is", answer, refer("the background") | {"prop": background})
    if scene.is_video:
        for verb, is_true in _claims(actor, rng):
            slots = subject.slots(rng) | {"verb": verb[0], "ing": verb[1]}
            yield Fact("yes or no", "yn_does", "Yes." if is_true else "No.", slots, actor)


def _claims(actor: Actor, rng: np.random.Generator) -> Iterator[tuple[Verb, bool]]:
    for motion, verbs in VERBS.items():
        may_rest = motion is not Motion.STILL or actor.motion is Motion.STILL or actor.motion in DIRECTIONS
        if may_rest and (motion is actor.motion or rng.random() < 0.4):
            yield verbs[rng.integers(len(verbs))], motion is actor.motion
    going = GOING[rng.integers(len(GOING))]
    moves = actor.motion in DIRECTIONS
    yield GOING[0], moves
    if not moves or actor.motion in AXES:
        wrong = AXES[rng.integers(4)]
        for way in dict.fromkeys((wrong, actor.motion)) if moves else (wrong,):
            yield _going(going, draw(rng, WAYS[way])), way is actor.motion
    if moves:
        yield _going(going, "diagonally"), actor.motion not in AXES
    if moves and actor.motion not in AXES:
        wrong = Motion(other(tuple(m.value for m in DIRECTIONS if m not in AXES), {actor.motion.value}, rng))
        for way in (wrong, actor.motion):
            yield _going(going, draw(rng, WAYS[way])), way is actor.motion


def _going(going: Verb, way: str) -> Verb:
    return (f"{going[0]} {way}", f"{going[1]} {way}", f"{going[2]} {way}")


def _either_or(scene: Scene, subject: Subject, rng: np.random.Generator) -> Iterator[Fact]:
    actor = subject.actor
    article = with_article if subject.number == 1 else to_plural
    pairs = [("shape", article(actor.shape), article(other(SHAPES, {actor.shape}, rng)))]
    if actor.motion is not Motion.TURN:
        pairs.append(("color", actor.color, other(COLORS, {actor.color}, rng)))
    if actor.motion not in (Motion.GROW, Motion.SHRINK):
        pairs.append(("size", actor.size, "small" if actor.size == "large" else "large"))
    for hidden, right, wrong in pairs:
        a, b = _shuffled(right, wrong, rng)
        slots = subject.slots(rng, hidden=hidden) | {"a": a, "b": b}
        yield Fact("either or", "either_is", f"{subject.it_is} {right}.", slots, actor)
    a, b = _shuffled(scene.background, other(BACKGROUNDS, {scene.background}, rng), rng)
    slots = refer("the background") | {"a": a, "b": b}
    yield Fact("either or", "either_is", f"The background is {scene.background}.", slots)
    opposite = {Motion.GROW: Motion.SHRINK, Motion.SHRINK: Motion.GROW, Motion.APPEAR: Motion.DISAPPEAR}
    opposite |= {Motion.DISAPPEAR: Motion.APPEAR, Motion.STILL: Motion.TURN, Motion.TURN: Motion.STILL}
    if scene.is_video and (actor.motion in AXES or actor.motion in opposite):
        if actor.motion in AXES:
            wrong_way = Motion(other(tuple(m.value for m in AXES), {actor.motion.value}, rng))
            style = int(rng.integers(5))
            right, wrong = (f"move {WAYS[way][style]}" for way in (actor.motion, wrong_way))
        else:
            right, wrong = (VERBS[m][0][0] for m in (actor.motion, opposite[actor.motion]))
        a, b = _shuffled(right, wrong, rng)
        yield Fact("either or", "either_does", motion_of(subject), subject.slots(rng) | {"a": a, "b": b}, actor)


def _comparisons(scene: Scene, rng: np.random.Generator) -> Iterator[Fact]:
    motions = {a.motion for a in scene.actors}
    values = {"shape": {a.shape for a in scene.actors}, "size": {a.size for a in scene.actors}}
    if Motion.TURN not in motions:
        values["color"] = {a.color for a in scene.actors}
    if motions & {Motion.GROW, Motion.SHRINK}:
        del values["size"]
    for attribute, seen in values.items():
        is_same, is_different = len(seen) == 1, len(seen) == len(scene.actors)
        slots = {"attribute": "{colour}" if attribute == "color" else attribute}
        yield Fact("comparison", "same_yn", "Yes." if is_same else "No.", slots)
        if is_same or is_different:
            yield Fact("comparison", "differ_yn", "No." if is_same else "Yes.", slots)
    if scene.is_group:
        return
    first, second = (scene.actors[int(i)] for i in rng.choice(len(scene.actors), 2, replace=False))
    names = {"x": _named(first, rng), "y": _named(second, rng)}
    is_two = len(scene.actors) == 2
    for er, gap in _differences(scene, first, second, rng):
        if is_two:
            winner = first if gap > 0 else second
            answer = f"The {name_of(winner)}." if gap else "They are the same size."
            yield Fact("comparison", "which_most", answer, names | {"er": er})
        yield Fact("comparison", "compare_yn", "Yes." if gap > 0 else "No.", names | {"er": er})
    for beside, gap in _relations(scene, first, second):
        yield Fact("comparison", "relation_yn", "Yes." if gap > 0 else "No.", names | {"beside": draw(rng, beside)})


def _differences(scene: Scene, first: Actor, second: Actor, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    if not {first.motion, second.motion} & {Motion.GROW, Motion.SHRINK}:
        gap = float(first.size == "large") - float(second.size == "large")
        yield draw(rng, ("bigger", "larger")), gap
        yield "smaller", -gap
    if scene.is_video:
        return
    (x, y), (other_x, other_y) = first.start, second.start
    if abs(y - other_y) > 0.3:
        yield draw(rng, ("higher", "higher up", "closer to the top")), other_y - y
        yield draw(rng, ("lower", "lower down", "closer to the bottom")), y - other_y
    if abs(x - other_x) > 0.3:
        yield draw(rng, ("further left", "further to the left")), other_x - x
        yield draw(rng, ("further right", "further to the right")), x - other_x


def _relations(scene: Scene, first: Actor, second: Actor) -> Iterator[tuple[tuple[str, ...], float]]:
    if not scene.is_video:
        dx, dy = second.start[0] - first.start[0], second.start[1] - first.start[1]
        if abs(dx) > 0.3:
            yield ("left of", "to the left of", "on the left of"), dx
            yield ("right of", "to the right of", "on the right of"), -dx
        if abs(dy) > 0.3:
            yield ("above", "over", "higher than"), dy
            yield ("below", "under", "lower than"), -dy


def _of_time(scene: Scene, rng: np.random.Generator) -> Iterator[Fact]:
    actors, first = scene.actors, scene.actors[0]
    if len(actors) == 2 and not scene.is_group:
        for motion, verbs in VERBS.items():
            if sum(a.motion is motion for a in actors) == 1:
                doer = next(a for a in actors if a.motion is motion)
                yield Fact("motion", "motion_who", f"The {name_of(doer)}.", {"acts": draw(rng, [v[2] for v in verbs])})
        if sum(a.motion in DIRECTIONS for a in actors) == 1:
            doer = next(a for a in actors if a.motion in DIRECTIONS)
            acts = draw(rng, ("moves", "goes somewhere", "travels", f"moves {draw(rng, WAYS[doer.motion])}"))
            yield Fact("motion", "motion_who", f"The {name_of(doer)}.", {"acts": acts})
        if {a.motion for a in actors} == {Motion.APPEAR}:
            early, late = sorted(actors, key=lambda a: a.switch_time)
            yield Fact("order", "order_first", f"The {name_of(early)}.")
            yield Fact("order", "order_last", f"The {name_of(late)}.")
            x, y = (early, late) if rng.random() < 0.5 else (late, early)
            slots = {"x": _named(x, rng), "y": _named(y, rng)}
            yield Fact("order", "order_yn", "Yes." if x is early else "No.", slots)
    if len(actors) == 1:
        moments = (("start", BEGIN, first.color), ("end", FINISH, first.color_at_end))
        hidden = {"start": Motion.APPEAR, "end": Motion.DISAPPEAR}
        for section, words, color in moments:
            thing = say_sentence(with_article(f"{color} {first.shape}"))
            answer = "Nothing." if first.motion is hidden[section] else thing
            yield Fact("start and end", section, answer, {"begin": draw(rng, words), "finish": draw(rng, words)})
            if first.motion is Motion.TURN:
                slots = {"moment": draw(rng, words)}
                yield Fact("start and end", "color_moment", f"It is {color}.", slots, first)
        if first.motion is Motion.TURN:
            yield Fact("start and end", "color_into", f"It turns {first.color_at_end}.", {}, first)


def _named(actor: Actor, rng: np.random.Generator) -> str:
    names = [f"the {actor.shape}"] * 2
    if actor.motion is not Motion.TURN:
        names += [f"the {name_of(actor)}", f"the {actor.color} one", f"the {actor.color} {draw(rng, THINGS)}"]
    return draw(rng, names)


def _shuffled(first: str, second: str, rng: np.random.Generator) -> tuple[str, str]:
    return (first, second) if rng.random() < 0.5 else (second, first)


def other(choices: tuple[str, ...], taken: set[str], rng: np.random.Generator) -> str:
    """Return one of the choices that is not taken."""
    return draw(rng, [c for c in choices if c not in taken])
