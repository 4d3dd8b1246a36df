"""What `tiny` is trained on: worded questions, never those held out, the same in every process, in whole tokens."""

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from tiny_world.architecture import train_tokenizer
from tiny_world.asking import KINDS, draw_any, draw_question
from tiny_world.facts import facts_of
from tiny_world.scenes import draw_scene
from tiny_world.wording import grammar
from train_tiny import _corpus

FILES = ("grammar", "foreign")
BATCH = """
import hashlib, sys
from PIL import Image
from tiny_world.architecture import train_tokenizer
from tiny_world.batches import EVERYTHING, IMAGES, make_batch
tokenizer = train_tokenizer(["USER: What is it? ASSISTANT: A red circle."] * 9)
photos = [Image.new("RGB", (80, 60), "green")]
digest = hashlib.sha256()
for step, diet in enumerate((EVERYTHING, IMAGES, EVERYTHING)):
    for name, tensor in sorted(make_batch((1, step), tokenizer, photos, diet).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
print(digest.hexdigest())
"""


def drawn(split, num=1500):
    """Return questions about scenes, by a fixed seed."""
    rng = np.random.default_rng(7)
    for _ in range(num // 10):
        scene = draw_scene(rng, is_video=bool(rng.random() < 0.6))
        facts = list(facts_of(scene, rng, split))
        for _ in range(10):
            yield draw_any(scene, facts, rng, weights={"foreign": 4.0}, split=split)


def listed(split):
    return {template for name in FILES for part in grammar(name).values() for template in part[split]}


def test_no_template_or_noun_is_both_trained_and_held_out():
    for name in (*FILES, "nouns"):
        for section, part in grammar(name).items():
            assert not set(part["trained"]) & set(part["held_out"]), section
    assert len(grammar("nouns")["nouns"]["trained"]) > 1000 < len(grammar("nouns")["nouns"]["held_out"])


def test_training_draws_trained_templates_and_nouns_only():
    words = set()
    for asked in drawn("trained"):
        assert asked.template in listed("trained") - listed("held_out")
        words |= set(re.findall(r"[a-z]+", asked.question.lower()))

    trained = {word for part in grammar("nouns").values() for noun in part["trained"] for word in noun.split()}
    trained |= {word for template in listed("trained") for word in re.findall(r"[a-z]+", template.lower())}
    held_out = set(grammar("nouns")["nouns"]["held_out"]) - trained
    assert len(words & held_out) <= 5  # a typo may make a word of another one


def test_held_out_questions_are_of_held_out_templates():
    assert {asked.template for asked in drawn("held_out")} <= listed("held_out")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_asked_in_both_splits_with_an_answer(kind):
    rng = np.random.default_rng(3)
    for split in ("trained", "held_out"):
        for _ in range(400):
            try:
                asked = draw_question(draw_scene(rng, is_video=bool(rng.random() < 0.6)), kind, rng, split=split)
            except KeyError:  # this scene has none
                continue
            break
        assert (asked.kind, asked.is_foreign) == (kind, kind == "foreign")
        assert all(asked.answers)
        assert not re.search(r"[{}\[\]~_]", asked.question + asked.answers[0])


def test_batches_are_the_same_in_every_process():
    digests = {
        subprocess.run(
            [sys.executable, "-c", BATCH],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(digests) == 1
    assert len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


def test_letters_yes_no_and_digits_are_single_tokens():
    tokenizer = train_tokenizer(_corpus(0))

    for word in (*"ABCDEFGH", "yes", "no", "Yes", "No"):
        assert len(tokenizer(f"ASSISTANT: {word}.")["input_ids"]) == len(tokenizer("ASSISTANT:")["input_ids"]) + 2
    for digit in "0123456789":
        assert tokenizer.convert_tokens_to_ids(digit) != tokenizer.unk_token_id
        assert tokenizer.convert_ids_to_tokens(tokenizer(f"a{digit}{digit}")["input_ids"])[-2:] == [digit, digit]
