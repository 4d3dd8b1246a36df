"""`import videollava_cli` as Python people write it: media in any form, whole answers, conversations, batches."""

import math
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import videollava_cli
from videollava_cli import clip, in_order, load, read
from videollava_cli.errors import CheckpointError, MediaError, UsageError

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
CLIP = EXAMPLES / "circle-moves-right.mp4"
MOVES = "A red circle moves from left to right."


@pytest.fixture(scope="module")
def frames():
    """Decode all frames of the clip."""
    with av.open(str(CLIP)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_clip_has_the_same_answer_in_whatever_form_it_is(tiny, frames):
    pictures = [Image.fromarray(frame) for frame in frames]
    with CLIP.open("rb") as file:
        forms = [
            str(CLIP),
            CLIP,
            [CLIP],
            np.stack(frames),
            [frames],
            [pictures],
            clip(pictures),
            CLIP.read_bytes(),
            file,
        ]

        answers = [tiny.answer_text(form, "What happens?") for form in forms]

    assert answers == [MOVES] * len(forms)


def test_flat_list_is_several_media_and_a_list_in_it_a_clip(mini):
    pictures = [Image.new("RGB", (32, 32), (30 * index, 0, 0)) for index in range(8)]

    flat, nested = mini.request(pictures, "What?"), mini.request([pictures, pictures[0]], "What?")

    assert [str(medium.kind) for medium in flat.media] == ["image"] * 8
    assert [str(medium.kind) for medium in nested.media] == ["video", "image"]


def test_wrong_medium_is_one_line_from_ask_itself(tiny, frames):
    for wrong in (3, None, {"path": CLIP}, [[]], frames[0] / 255, [CLIP, 3]):
        with pytest.raises(UsageError, match=r"\A[^\n]*: give [^\n]*\Z"):
            tiny.ask(wrong, "What happens?")


def test_history_is_the_conversation_before_the_question(tiny):
    history = [("What happens?", MOVES)]

    answer = tiny.answer_text(CLIP, "What color is it?", history=history)

    assert answer == "It is red."
    prompt = list(tiny.ask(CLIP, "What color is it?", history=history))[-1].prompt
    assert prompt.count("<video>") == 1
    assert MOVES in prompt


@pytest.mark.parametrize(
    "history", ["What happens?", 3, ["What happens?"], [("a", "b", "c")], [("What?", 3)], [(3, "It.")]]
)
def test_history_that_is_no_pairs_of_texts_is_one_line(tiny, history):
    with pytest.raises(UsageError, match=r"\A[^\n]*(give pairs of a question and its answer|give texts)\Z"):
        tiny.ask(CLIP, "What happens?", history=history)


@pytest.mark.parametrize("question", [None, 3, b"What?", ["What?", "Why?"]])
def test_question_that_is_no_text_is_one_line(tiny, question):
    with pytest.raises(UsageError, match=r"\Aa question is [^\n]*: give texts\Z"):
        tiny.ask(CLIP, question)


def test_medium_that_cannot_be_read_ends_a_batch_with_its_error(tiny):
    requests = (tiny.request(path, "What happens?") for path in (CLIP, "nowhere.mp4"))

    with pytest.raises(MediaError, match=r"no such file: 'nowhere\.mp4'"):
        list(tiny.answer(requests))


def test_requests_are_answered_together_in_order(tiny):
    paths = sorted(EXAMPLES.glob("*.mp4"))

    pairs = in_order(tiny.answer(tiny.request(path, "What happens?") for path in paths))
    texts = {}
    for request, chunk in pairs:
        texts[request.media[0].name] = texts.get(request.media[0].name, "") + chunk.text

    assert texts == {str(path): tiny.answer_text(path, "What happens?") for path in paths}


@pytest.mark.parametrize("model", ["7b", "7b-4bit"])
def test_read_gives_what_a_preset_sees_without_its_checkpoint(model, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    whole, later = read(CLIP, model), read(str(CLIP), model=model, start="0:01", end=2, fit="pad")

    assert (whole.pixels.shape, whole.pixels.dtype) == ((8, 224, 224, 3), np.uint8)
    assert len(whole.stamps) == 8
    assert all(1 <= stamp.seconds < 2 for stamp in later.stamps)
    assert not np.array_equal(whole.pixels, later.pixels)


@pytest.mark.parametrize("at", ["0,0,0,1,1,1,2,2", [0, 0, 0, 1, 1, 1, 2, 2], (0.0, "0s", 0, 1, "0:01", 1, 2, 2)])
def test_moments_may_be_a_list(at):
    assert [math.floor(stamp.seconds) for stamp in read(CLIP, "tiny", at=at).stamps] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        (([CLIP, CLIP],), {}, UsageError, "read takes one medium, and 2 are given"),
        (([],), {}, UsageError, "read takes one medium, and 0 are given"),
        (("nowhere.mp4", "tiny"), {}, MediaError, "no such file"),
        ((CLIP, "tinny"), {}, CheckpointError, "did you mean 'tiny'"),
        ((CLIP, "tiny"), {"fit": "zoom"}, UsageError, "fit is 'zoom'"),
        ((CLIP, "tiny"), {"at": [0, 1]}, UsageError, "at has 2 times"),
        ((CLIP, "tiny"), {"at": ["noon"] * 8}, UsageError, "at is 'noon,"),
        ((CLIP, "tiny"), {"start": 100}, MediaError, "has no frames between the times"),
    ],
)
def test_wrong_use_of_read_is_one_line(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        read(*arguments, **options)


def test_medium_that_was_read_for_another_model_is_refused(tiny):
    with pytest.raises(UsageError, match=r"read as 224 x 224 pixels, and 'tiny' sees 56 x 56: say read\(.*'tiny'\)$"):
        tiny.ask(read(CLIP, model="7b"), "What happens?")


def test_engine_and_medium_are_shown_in_a_line(tiny, small):
    assert repr(tiny) == "<Engine 'tiny' on cpu, float32>"
    assert len(repr(small)) <= 80
    assert repr(small).startswith("<Engine '")
    assert repr(read(CLIP.relative_to(ROOT) if Path.cwd() == ROOT else CLIP, "tiny")).endswith("video, 8 x 56 x 56>")


def test_model_may_be_a_path(small_checkpoint, small):
    assert load(small_checkpoint, device="cpu", dtype="float32").checkpoint == small.checkpoint


def test_example_in_the_docstring_can_be_pasted():
    _, _, program = videollava_cli.__doc__.partition("\n\n")

    done = subprocess.run(
        [sys.executable, "-i", "-q"], input=program, cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{MOVES}\nIt is brown."
    assert "Error" not in done.stderr


def test_importing_the_package_imports_no_heavy_library():
    program = (
        "import sys, videollava_cli; dir(videollava_cli); videollava_cli.VllavaError;"
        "print(sorted({'torch', 'numpy', 'PIL', 'av', 'transformers'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
