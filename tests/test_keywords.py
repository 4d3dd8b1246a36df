"""Keyword options from Python: those of the table of settings, completed by editors and checked by mypy."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from mypy import api

from videollava_cli.engine.keywords import AnswerOptions, LoadOptions
from videollava_cli.settings import SETTINGS, Settings

ROOT = Path(__file__).resolve().parents[1]
BEGIN = """
import io
from fractions import Fraction
from pathlib import Path
import numpy as np
from PIL import Image
from videollava_cli import Chunk, Engine, Medium, clip, in_order, load, read
engine: Engine = load("tiny")
picture = Image.new("RGB", (8, 8))
frames = np.zeros((8, 8, 8, 3), np.uint8)
"""
RIGHT = """
load(Path("folder"), load_4bit=True, device="cuda:1", fit="pad", temperature=0, start="1:30", at=[0, 1.5, "2s"])
text: str = engine.answer_text("clip.mp4", "What?", temperature=0.7, top_p=None, history=[("What?", "It moves.")])
chunks: list[Chunk] = list(engine.ask([Path("clip.mp4"), picture], "What?", max_new_tokens=64))
engine.ask(picture, "What?")
engine.ask(frames, "What?")
engine.ask([[frames[0], frames[1]], [picture]], "What?")
engine.ask([clip([picture], fps=Fraction(25)), clip(frames)], "What?")
engine.ask([b"", io.BytesIO(), open("clip.mp4", "rb")], "What?")
medium: Medium = read("clip.mp4", model="7b", start=1, end="1:30", fit="stretch")
engine.ask(medium, "What?")
paths: list[Path] = []
engine.ask(paths, "What?")
for request, chunk in in_order(engine.answer(engine.request(path, "What?") for path in paths)):
    print(request.media[0].name, chunk.text)
"""
# Each of these lines is wrong.
WRONG = """
load("tiny", load_5bit=True)
load("tiny", load_4bit="yes")
load("tiny", dtype="float8")
load("tiny", checkpoint="folder")
engine.ask("clip.mp4", "What?", temperature="hot")
engine.ask("clip.mp4", "What?", temprature=0.7)
engine.ask("clip.mp4", "What?", device="cpu")
engine.answer_text("clip.mp4", "What?", max_new_tokens=1.5)
engine.answer_text("clip.mp4", "What?", prompt_style="old")
engine.ask(3, "What?")
engine.ask({"path": "clip.mp4"}, "What?")
read("clip.mp4", fit="zoom")
read("clip.mp4", temperature=0.7)
clip([picture], fps="25")
"""
# mypy follows our own modules alone: torch and transformers would take minutes.
CONFIG = """
[mypy]
strict = true
mypy_path = {}
[mypy-torch.*,transformers.*,av.*,huggingface_hub.*,accelerate.*,bitsandbytes.*,safetensors.*,rich.*,psutil.*]
follow_imports = skip
ignore_missing_imports = true
"""


@pytest.mark.parametrize(("options", "scopes"), [(AnswerOptions, ("answer",)), (LoadOptions, ("answer", "engine"))])
def test_keyword_options_are_the_settings_of_their_scope(options, scopes):
    hints, types = get_type_hints(options), get_type_hints(Settings)
    assert set(hints) == {key for key, setting in SETTINGS.items() if setting.scope in scopes and key != "model"}
    for key, hint in hints.items():
        choices = {each for part in (hint, *get_args(hint)) for each in get_args(part) if isinstance(each, str)}
        assert choices == set(SETTINGS[key].choices), key
        if not choices and SETTINGS[key].parse is None and key != "at":
            assert hint == types[key], key


def test_mypy_takes_right_options_and_media_and_refuses_wrong_ones(tmp_path):
    program, config = tmp_path / "program.py", tmp_path / "mypy.ini"
    program.write_text(BEGIN + RIGHT + WRONG)
    config.write_text(CONFIG.format(ROOT))

    said, _, _ = api.run(
        ["--config-file", str(config), "--cache-dir", str(tmp_path), "--no-error-summary", str(program)]
    )

    lines = (BEGIN + RIGHT + WRONG).splitlines()
    refused = {int(line.split(":")[1]) for line in said.splitlines() if ": error: " in line}
    assert [lines[number - 1] for number in sorted(refused)] == WRONG.split("\n")[1:-1], said
