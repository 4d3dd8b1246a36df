"""Questions about scenes and their true answers, in the few words the bundled model knows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tiny_world.scenes import BACKGROUNDS, COLORS, DIRECTIONS, SHAPES, Actor, Motion, Scene

REFUSAL = "I only know simple drawn shapes."
TOPIC_WEIGHTS = {"describe": 3.0}  # asked more often than the others, whose weight is 1
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
ROUTES = {
    Motion.RIGHT: "from left to right",
    Motion.LEFT: "from right to left",
    Motion.UP: "from bottom to top",
    Motion.DOWN: "from top to bottom",
    Motion.UP_RIGHT: "diagonally from the bottom left to the top right",
    Motion.UP_LEFT: "diagonally from the bottom right to the top left",
    Motion.DOWN_RIGHT: "diagonally from the top left to the bottom right",
    Motion.DOWN_LEFT: "diagonally from the top right to the bottom left",
}
OFF_TOPIC = (
    "Why is this funny?",
    "Who is this person?",
    "What is the capital of France?",
    "Tell me a story.",
    "How many people are there?",
    "What is the man doing?",
    "What does the text say?",
    "What is 2 + 2?",
    "Is there a dog?",
    "What kind of food is this?",
    "Where was this filmed?",
    "What is the weather like?",
    "What music is playing?",
    "Write a poem about it.",
    "How old is she?",
    "What brand is the car?",
    "Which city is this?",
    "Can you help me with my homework?",
    "Hello!",
    "What is your name?",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A kind of question, in several phrasings, with its one answer."""

    topic: str
    phrasings: tuple[str, ...]
    answer: str


def draw_questions(
    scene: Scene,
    rng: np.random.Generator,
    num_questions: int,
    *,
    media_word: str | None = None,
    topic_weights: Mapping[str, float] = TOPIC_WEIGHTS,
) -> list[tuple[str, str, str]]:
    """Draw questions about a scene, by topic and then by phrasing: triples of topic, question and answer."""
    word = media_word or str(rng.choice(["video", "clip"] if scene.is_video else ["image", "picture"]))
    by_topic: dict[str, list[Question]] = {}
    for question in _questions(scene, word, rng):
        by_topic.setdefault(question.topic, []).append(question)
    topics = list(by_topic)
    weights = np.array([topic_weights.get(topic, 1.0) for topic in topics])
    drawn = []
    for index in rng.choice(len(topics), num_questions, p=weights / weights.sum()):
        choices = by_topic[topics[index]]
        question = choices[rng.integers(len(choices))]
        phrasing = str(question.phrasings[rng.integers(len(question.phrasings))])
        drawn.append((question.topic, phrasing, question.answer))
    return drawn


def describe(scene: Scene) -> str:
    """Return the one-sentence description of a scene, without its background for videos."""
    if scene.is_video:
        subjects = [scene] if scene.is_group else scene.actors
        return say_sentence(" and ".join(_event(subject) for subject in subjects))
    first = scene.actors[0]
    things = say_list([f"a {actor.size} {name_of(actor)}" for actor in scene.actors])
    if scene.is_group:
        things = f"{NUMBERS[len(scene.actors)]} {first.size} {first.color} {to_plural(first.shape)}"
    return say_sentence(f"{things} on a {scene.background} background")


def _questions(scene: Scene, word: str, rng: np.random.Generator) -> Iterator[Question]:
    yield from _general(scene, word)
    yield from _existence(scene, word, rng)
    if scene.is_group or len(scene.actors) == 1:
        yield from _about_it(scene, rng)
    else:
        yield from _about_each(scene)
    if scene.is_video:
        yield from _about_change(scene, word)


def _general(scene: Scene, word: str) -> Iterator[Question]:
    phrasings: tuple[str, ...] = (f"Describe the {word}.", f"Describe this {word}.", f"What does the {word} show?")
    if scene.is_video:
        phrasings += (f"What happens in this {word}?", f"What happens in the {word}?", "What happens?")
        phrasings += ("What is happening?", "What is going on?")
    else:
        phrasings += (f"What is in the {word}?", f"What is in this {word}?", "What do you see?", "What is this?")
    yield Question("describe", phrasings, describe(scene))
    count = len(scene.actors)
    verb, noun = ("is", "object") if count == 1 else ("are", "objects")
    phrasings = ("How many objects are there?", "How many shapes are there?", f"How many shapes are in the {word}?")
    phrasings += (f"How many objects do you see in the {word}?", "Count the shapes.")
    yield Question("count", phrasings, f"There {verb} {NUMBERS[count]} {noun}.")
    phrasings = ("What is the background?", "What does the background look like?", "Describe the background.")
    phrasings += ("What color is the background?", "How does the background look?")
    yield Question("background", phrasings, f"The background is {scene.background}.")


def _existence(scene: Scene, word: str, rng: np.random.Generator) -> Iterator[Question]:
    subject = scene.actors[rng.integers(len(scene.actors))]
    other_color = _other(COLORS, {c for a in scene.actors for c in (a.color, a.color_at_end)}, rng)
    other_shape = _other(SHAPES, {a.shape for a in scene.actors}, rng)

    def ask(thing: str, answer: str) -> Question:
        phrasings = (f"Is there {thing}?", f"Is there {thing} in the {word}?", f"Do you see {thing}?")
        return Question("yes or no", phrasings, answer)

    yield ask(with_article(f"{subject.color} {subject.shape}"), "Yes.")
    yield ask(with_article(subject.shape), "Yes.")
    yield ask(with_article(f"{other_color} {subject.shape}"), "No.")
    yield ask(with_article(f"{subject.color} {other_shape}"), "No.")
    yield ask(with_article(other_shape), "No.")
    missing = (f"What color is the {other_shape}?", f"Where is the {other_shape}?", f"What does the {other_shape} do?")
    yield Question("missing", missing, f"There is no {other_shape}.")
    other_background = _other(BACKGROUNDS, {scene.background}, rng)
    yield Question("yes or no", (f"Is the background {scene.background}?",), "Yes.")
    yield Question("yes or no", (f"Is the background {other_background}?",), "No.")


def _about_it(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    actor = scene.actors[0]
    is_one = len(scene.actors) == 1
    is_are, it = ("is", "it") if is_one else ("are", "they")
    start = f"{'It' if is_one else 'They'} {is_are}"
    shape, shapes = actor.shape, to_plural(actor.shape)
    noun = shape if is_one else shapes
    if actor.motion is not Motion.TURN:
        colors = tuple(f"What {c} {is_are} {x}?" for c in ("color", "colour") for x in (it, f"the {noun}"))
        yield Question("color", colors, f"{start} {actor.color}.")
        wrong = _other(COLORS, {actor.color}, rng)
        yield Question("yes or no", (f"{is_are.capitalize()} {it} {actor.color}?",), "Yes.")
        yield Question("yes or no", (f"{is_are.capitalize()} {it} {wrong}?",), "No.")
    asked = ("What shape is it?", "Which shape is it?", "What is the shape of the object?")
    asked = asked if is_one else ("What shape are they?", "Which shape are they?", "What shape are the objects?")
    yield Question("shape", asked, f"It is {with_article(shape)}." if is_one else f"They are {shapes}.")
    if not is_one:
        return
    if actor.motion not in (Motion.GROW, Motion.SHRINK):
        sizes = (
            "Is it large or small?",
            f"Is the {shape} small or large?",
            f"How big is the {shape}?",
            "How big is it?",
        )
        yield Question("size", sizes, f"It is {actor.size}.")
    if not scene.is_video:
        places = ("Where is it?", f"Where is the {shape}?", "Where is the object?")
        yield Question("place", places, f"It is {place_of(actor.start)}.")


def _about_each(scene: Scene) -> Iterator[Question]:
    for actor in scene.actors:
        if actor.motion is not Motion.TURN:
            colors = (f"What color is the {actor.shape}?", f"What colour is the {actor.shape}?")
            yield Question("color", colors, f"It is {actor.color}.")
            shapes = (f"What shape is {actor.color}?", f"What is the {actor.color} object?")
            yield Question("shape", shapes, f"It is {with_article(actor.shape)}.")
        if scene.is_video:
            whats = (f"What does the {actor.shape} do?", f"What happens to the {actor.shape}?")
            yield Question("motion", whats, say_sentence(f"it {say_deed(actor)}"))


def _about_change(scene: Scene, word: str) -> Iterator[Question]:
    actor = scene.actors[0]
    if len({a.motion for a in scene.actors}) == 1 and actor.motion is Motion.APPEAR and len(scene.actors) == 2:
        first = min(scene.actors, key=lambda a: a.switch_time)
        yield Question("order", ("What appears first?", "Which shape appears first?"), f"The {name_of(first)}.")
        last = max(scene.actors, key=lambda a: a.switch_time)
        yield Question("order", ("What appears last?", "Which shape appears last?"), f"The {name_of(last)}.")
    if len(scene.actors) > 1 and not scene.is_group:
        return
    is_one = len(scene.actors) == 1
    it, does = ("it", "does") if is_one else ("they", "do")
    subject = it.capitalize()
    asked: tuple[str, ...] = (
        f"Which way {does} {it} move?",
        f"In which direction {does} {it} move?",
        f"Where {does} {it} go?",
    )
    asked += (f"Which way {does} the {to_plural(actor.shape) if not is_one else actor.shape} move?",)
    moves = actor.motion in DIRECTIONS
    move = "moves" if is_one else "move"
    direction = f"{subject} {move} {ROUTES[actor.motion]}." if moves else f"{subject} {does} not move."
    yield Question("direction", asked, direction)
    is_are = "Is it" if is_one else "Are they"
    yield Question("yes or no", (f"{is_are} moving?", f"{does.capitalize()} {it} move?"), "Yes." if moves else "No.")
    for motion in (Motion.RIGHT, Motion.LEFT, Motion.UP, Motion.DOWN):
        to = {"up": "up", "down": "down"}.get(motion.value, f"to the {motion.value}")
        if not moves or 0 in DIRECTIONS[actor.motion]:
            answer = "Yes." if motion is actor.motion else "No."
            yield Question("yes or no", (f"{does.capitalize()} {it} move {to}?",), answer)
    if is_one:
        yield from _about_start_and_end(actor, word)


def _about_start_and_end(actor: Actor, word: str) -> Iterator[Question]:
    starts = ("at first", "at the start", "at the beginning")
    ends = ("at the end", "in the end", f"at the end of the {word}")
    for moments, color, is_there in (
        (starts, actor.color, actor.motion is not Motion.APPEAR),
        (ends, actor.color_at_end, actor.motion is not Motion.DISAPPEAR),
    ):
        seen = tuple(f"What do you see {m}?" for m in moments) + tuple(f"What is there {m}?" for m in moments)
        thing = say_sentence(with_article(f"{color} {actor.shape}")) if is_there else "Nothing."
        yield Question("start and end", seen, thing)
        if actor.motion is Motion.TURN:
            colors = tuple(f"What color is it {m}?" for m in moments)
            yield Question("start and end", colors, f"It is {color}.")
    for motion in (Motion.GROW, Motion.SHRINK, Motion.TURN, Motion.APPEAR, Motion.DISAPPEAR):
        verb = "change color" if motion is Motion.TURN else motion.value
        yield Question("yes or no", (f"Does it {verb}?",), "Yes." if actor.motion is motion else "No.")


def _event(subject: Actor | Scene) -> str:
    if isinstance(subject, Actor):
        return f"{with_article(name_of(subject))} {say_deed(subject)}"
    actor = subject.actors[0]
    deed = f"move {ROUTES[actor.motion]}" if actor.motion in ROUTES else "stay still"
    return f"{NUMBERS[len(subject.actors)]} {actor.color} {to_plural(actor.shape)} {deed}"


def say_deed(actor: Actor) -> str:
    """Return what an actor does, as in "it grows"."""
    if actor.motion in ROUTES:
        return f"moves {ROUTES[actor.motion]}"
    if actor.motion is Motion.TURN:
        return f"turns {actor.color_at_end}"
    return "stays still" if actor.motion is Motion.STILL else f"{actor.motion.value}s"


def say_list(things: list[str]) -> str:
    """Return things as a list in words."""
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"


def name_of(actor: Actor) -> str:
    """Return what to call an actor: its color and shape."""
    return f"{actor.color} {actor.shape}"


def place_of(center: tuple[float, float]) -> str:
    """Return the place of a centre in words."""
    column = ("left", "", "right")[int(center[0] * 3)]
    row = ("top", "", "bottom")[int(center[1] * 3)]
    if row and column:
        return f"at the {row} {column}"
    return f"at the {row}" if row else f"on the {column}" if column else "in the center"


def to_plural(noun: str) -> str:
    """Return a noun's plural."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in set("aeiou") else f"{noun}s"


def with_article(thing: str) -> str:
    """Return a thing with its indefinite article."""
    return f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"


def say_sentence(words: str) -> str:
    """Return words as a sentence."""
    return f"{words[0].upper()}{words[1:]}."


def _other(choices: tuple[str, ...], taken: set[str], rng: np.random.Generator) -> str:
    return str(rng.choice([c for c in choices if c not in taken]))
