"""`vllava chat` in a pipe: a question a line, an answer a line, and a conversation that can be taken up."""

import json
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import vllava

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLIP, TRIANGLE = EXAMPLES / "circle-moves-right.mp4", EXAMPLES / "triangle.jpg"
SLOW = Path(__file__).with_name("slow_chat.py")
TINY = ("chat", "-m", "tiny", "--device", "cpu")
QUESTIONS = "What shape is it?\nWhat color is it?\nWhich way does it move?\n"
ANSWERS = ["It is a circle.", "It is red.", "It moves from left to right."]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Keep conversations in a folder of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "vllava"


def run(*arguments, lines="", command=TINY):
    """Run the command on lines; return status, lines of stdout, lines of stderr."""
    done = vllava(*command, *arguments, stdin=lines.encode())
    return done.status, done.stdout.split("\n")[:-1], done.stderr.splitlines()


def kept(state):
    """Return the files of conversations, in the order in which they began."""
    return sorted(state.glob("conversations/*.json"))


def saved(state):
    (path,) = kept(state)
    return json.loads(path.read_text())


def test_each_question_gets_one_line_and_nothing_else_is_said():
    assert run(CLIP, lines=QUESTIONS) == (0, ANSWERS, [])


def test_conversation_is_kept_privately_and_taken_up_with_its_media(state):
    run(CLIP, lines=QUESTIONS)

    status, answers, notes = run("-c", lines="What color is it?\n", command=("chat", "--device", "cpu"))

    (path,) = kept(state)
    taken_up = f"vllava: note: {path.stem}: 3 turns about 'circle-moves-right.mp4' taken up"
    assert (status, answers, notes) == (0, ["It is red."], [taken_up])
    assert [turn["answer"] for turn in saved(state)["turns"]] == [*ANSWERS, "It is red."]
    assert saved(state)["turns"][0]["media"][0]["name"] == str(CLIP)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (state, path.parent, path)] == [0o700, 0o700, 0o600]


def test_slash_commands_work_in_a_pipe():
    lines = [f"/image {TRIANGLE}", "What is in the image?", "What color is it?", "/undo", "/retry", "/media", "/stats"]

    status, answers, notes = run(lines="\n".join(lines))

    assert (status, answers[0], answers[2]) == (0, "A small brown triangle on a white background.", answers[0])
    assert len(answers) == 3
    assert notes[0].startswith("vllava: note: greedy answers are always the same")
    assert notes[1] == f"turn 1         image  {TRIANGLE}"
    assert re.match(r"context +\d+ of 256 tokens, \d+%$", notes[2])
    assert re.match(r"last answer  \d+ prompt tokens, \d+ cached, \d+ new ones, first after .* tokens/s$", notes[4])


def test_mixed_media_over_turns_are_told_apart():
    lines = ["What color is it?", f"/image '{TRIANGLE}'", "What is in the image?", "/frames", "/media"]

    status, answers, notes = run(CLIP, lines="\n".join(lines))

    assert (status, answers) == (0, ["It is red.", "A small brown triangle on a white background."])
    assert "not trained for several media" in notes[0]
    assert notes[1] == "circle-moves-right.mp4, 8 frames from 0.00 s to 2.62 s"
    assert notes[-2:] == [
        f"turn 1         video  {CLIP}, 8 frames from 0.00 s to 2.62 s",
        f"turn 2         image  {TRIANGLE}",
    ]


def test_line_that_fails_keeps_lines_in_step_and_gives_the_status():
    status, answers, notes = run(
        CLIP, lines="What color is it?\n" + "why " * 300 + "\n/image nowhere\nWhat shape is it?\n"
    )

    assert (status, answers) == (3, ["It is red.", "", "It is a circle."])
    assert len(notes) == 2
    assert re.match(
        r"vllava: error: the prompt has [\d,]+ tokens .* holds 256: ask about fewer media, or say less$", notes[0]
    )
    assert notes[1] == "vllava: error: no such file: 'nowhere'"


def test_context_that_is_full_drops_the_oldest_turns_and_says_so_once(state):
    status, answers, notes = run(CLIP, lines="Describe the video.\n" * 12)

    assert (status, set(answers), len(answers)) == (0, {"A red circle moves from left to right."}, 12)
    assert sum("is 8" in line and "% full" in line for line in notes) == 1
    assert sum("the oldest turns are left out of what the model is given" in line for line in notes) == 1
    assert len(notes) == 2
    assert (len(saved(state)["turns"]), saved(state)["num_left_out"] > 4) == (12, True)


def test_second_clip_that_does_not_fit_is_refused_before_it_is_read():
    status, answers, notes = run(CLIP, lines=f"/video {EXAMPLES / 'star-grows.webm'}\nWhat color is it?\n")

    assert (status, answers) == (2, ["It is red."])
    assert notes[0].startswith("vllava: error: one more video does not fit: with it the media take ")


def test_settings_and_system_text_are_changed_and_kept(state):
    lines = ["/set max-new-tokens 2", "/set temperature 0.7", "/set top_p 0.9", "/system Be kind.", "What color is it?"]
    lines += ["/set top_p none", "/set seed x", "/set device cpu", "/set sed 1", "/set seed", "/set", "/system"]

    status, answers, notes = run(CLIP, lines="\n".join(lines))

    assert (status, len(answers)) == (2, 1)
    assert notes[0].startswith("vllava: note: the answer was cut off after 2 tokens: /set max_new_tokens 4 allows more")
    assert [line.removeprefix("vllava: error: ") for line in notes[1:5]] == [
        "seed is 'x': give a number",
        "'device' cannot be set for one answer",
        "'sed' cannot be set for one answer; did you mean 'seed'?",
        "/set needs a value after 'seed': /set seed VALUE, or none to unset it",
    ]
    assert "temperature         0.7" in notes
    assert "top_p               none" in notes
    assert notes[-1] == "Be kind."
    assert saved(state)["settings"] | {"system": "Be kind.", "max_new_tokens": 2} == saved(state)["settings"]


def test_flags_count_more_than_what_was_saved(state):
    run(CLIP, "--start", "1", "--temperature", "0.5", lines="What color is it?\n")

    run("-c", "--at", "0,1,1,1,1,1,1,2", "--temperature", "0", "--max-new-tokens", "7", lines="What color is it?\n")

    settings = saved(state)["settings"]
    assert (settings["start"], settings["at"], settings["temperature"]) == (None, "0,1,1,1,1,1,1,2", 0)
    assert settings["max_new_tokens"] == 7
    assert saved(state)["turns"][0]["media"][0]["start"] == 1


def test_json_gives_one_object_a_question():
    status, lines, _ = run(CLIP, "--json", lines="What color is it?\n/undo\nWhat shape is it?\n" + "why " * 300)

    first, second, third = map(json.loads, lines)
    assert (status, first["answer"], second["answer"]) == (2, "It is red.", "It is a circle.")
    assert second["prompt"] == "USER: <video>\nWhat shape is it? ASSISTANT:"
    assert second["cached_tokens"] > 136
    assert set(first) == {
        *("media", "question", "prompt", "answer", "finish_reason", "prompt_tokens", "cached_tokens", "new_tokens"),
        *("model", "compute_dtype", "timings"),
    }
    assert third["error"]["type"] == "UsageError"


def test_clear_keeps_media_and_reset_drops_them(state):
    lines = ["What shape is it?", "/clear", "What color is it?", "/media", "/reset", "/media", "/frames"]

    status, answers, notes = run(CLIP, lines="\n".join(lines))

    assert (status, answers) == (2, ["It is a circle.", "It is red."])
    assert notes[0].startswith("turn 1         video  ")
    assert notes[1:] == [
        "no media yet: /video PATH or /image PATH shows one",
        "vllava: error: no media yet: /video PATH or /image PATH shows one",
    ]
    turns = [json.loads(path.read_text())["turns"] for path in kept(state)]
    assert sorted(turn["question"] for each in turns for turn in each) == ["What color is it?", "What shape is it?"]


def test_save_and_load(tmp_path):
    clip = tmp_path / "precious.mp4"
    clip.write_bytes(CLIP.read_bytes())
    lines = [f"/save {clip}", f"/save {tmp_path}", f"/save {tmp_path}/no/where.json", f"/save {tmp_path}/talk.json"]

    status, _, notes = run(clip, lines="What color is it?\n" + "\n".join(lines))
    clip.unlink()
    again = run(lines=f"/load {tmp_path}/talk.json\nWhat shape is it?\n/load {TRIANGLE}\n/retry\n")

    assert (status, len(notes)) == (2, 3)
    assert "holds no conversation: give another name" in notes[0]
    assert "is a folder: name a file" in notes[1]
    assert "there is no folder" in notes[2]
    assert (again[0], len(again[1])) == (2, 2)
    assert again[2][0].startswith(f"vllava: note: no such file: '{clip}'")
    assert "the conversation goes on without it" in again[2][0]
    assert any("cannot take up the conversation in" in line for line in again[2])


SAVED_BY_0_1_0 = """\
{
 "format": "vllava conversation",
 "version": 1,
 "model": "tiny",
 "revision": null,
 "settings": {
  "max_new_tokens": 4,
  "temperature": 0.0,
  "top_p": null,
  "top_k": null,
  "repetition_penalty": 1.0,
  "seed": 0,
  "system": "Be kind.",
  "prompt_style": "newline",
  "start": 0.5,
  "end": null,
  "at": null
 },
 "turns": [
  {
   "question": "What shape is it?",
   "answer": "It is a circle.",
   "media": [
    {
     "name": "EXAMPLES/circle-moves-right.mp4",
     "kind": "video",
     "start": 0.5,
     "end": null,
     "at": null,
     "fit": "crop",
     "side": 56,
     "digest": "8fc77b43cd162f61a024b247d36d15f9"
    }
   ],
   "is_stopped": false
  },
  {
   "question": "Describe the video.",
   "answer": "A red circle",
   "media": [],
   "is_stopped": true
  }
 ],
 "queued": [
  {
   "name": "EXAMPLES/gone.jpg",
   "kind": "image",
   "start": 0.5,
   "end": null,
   "at": null,
   "fit": "crop",
   "side": 56,
   "digest": "83974eaa0e85f00b75d5599f4e88faf6"
  }
 ],
 "num_left_out": 0
}
"""


def test_conversation_that_0_1_0_saved_is_loaded(tmp_path):
    (tmp_path / "old.json").write_text(SAVED_BY_0_1_0.replace("EXAMPLES", str(EXAMPLES)))
    lines = [f"/load {tmp_path}/old.json", "/media", "/system", "What color is it?", f"/save {tmp_path}/new.json"]

    status, answers, notes = run(lines="\n".join(lines))

    assert (status, answers) == (0, ["It is red."])
    assert notes[0].startswith(f"vllava: note: no such file: '{EXAMPLES}/gone.jpg'; the conversation goes on without")
    assert f"turn 1         video  {CLIP}, 8 frames from 0.50 s to 2.67 s" in notes
    assert "Be kind." in notes
    old, new = (json.loads((tmp_path / name).read_text()) for name in ("old.json", "new.json"))
    assert new["turns"][:2] == old["turns"]
    assert new["turns"][2]["media"] == old["queued"]
    assert {**new, "turns": new["turns"][:2], "queued": old["queued"]} == old


def test_no_save_keeps_nothing(state):
    run(CLIP, "--no-save", lines=QUESTIONS)

    assert not state.exists()


def test_nothing_asked_leaves_the_last_conversation(state):
    run(CLIP, lines="What color is it?\n")
    before = saved(state)

    run(TRIANGLE, lines="/media\n\n")

    assert saved(state) == before


def test_no_conversation_to_take_up_is_an_error(state):
    assert run("-c") == (
        2,
        [],
        [f"vllava: error: there is no conversation to take up in {str(state)!r}: leave --continue out"],
    )


def test_damaged_conversation_is_an_error_of_one_line(state):
    path = state / "conversations" / "261201-120000-abcd.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": "vllava conversation", "version": 1')

    status, answers, notes = run("-c")

    assert (status, answers, len(notes)) == (2, [], 1)
    assert notes[0].startswith(f"vllava: error: cannot take up the conversation in '{path}': Expecting")
    assert notes[0].endswith(f"; vllava chat --delete {path.stem} removes it")


def test_state_folder_that_cannot_be_made_is_a_note_and_no_more(state):
    state.parent.parent.joinpath("state").touch()

    status, answers, notes = run(CLIP, lines="What color is it?\n")

    assert (status, answers, len(notes)) == (0, ["It is red."], 1)
    assert notes[0].startswith("vllava: note: nothing is kept of this conversation: ")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.mp4"], 3, "no such file: 'nowhere.mp4'"),
        ([CLIP, CLIP], 2, "the prompt has "),
        (["-", "-"], 2, "'-' is given more than once"),
        (["--top-p", "0.5"], 2, "top_p and top_k choose among sampled tokens"),
        (["--flash-attn", "--attn-implementation", "sdpa"], 2, "--flash-attn and --attn-implementation sdpa exclude"),
        (["--revision", "main"], 2, "revision is 'main', and 'tiny' is no hub id"),
    ],
)
def test_mistake_on_the_command_line_ends_at_once(arguments, status, message):
    done = run(*arguments, lines="Hi\n")

    assert (done[0], done[1], len(done[2])) == (status, [], 1)
    assert done[2][0].startswith(f"vllava: error: {message}")


def test_medium_on_stdin_without_a_terminal_is_refused():
    line = [sys.executable, "-m", "videollava_cli", *TINY, "-"]

    done = subprocess.run(line, input=b"Hi\n", capture_output=True, check=False, start_new_session=True)

    message = b"'-' takes stdin for a medium, and there is no terminal for the questions"
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"vllava: error: %s\n" % message)


def test_closed_stdin_is_refused():
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "videollava_cli", *TINY]

    done = subprocess.run(command, capture_output=True, check=False)

    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_mistyped_path_waits_for_no_heavy_library():
    line = [sys.executable, "-X", "importtime", "-m", "videollava_cli", *TINY, "nowhere.mp4"]

    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    assert done.returncode == 3
    assert not re.search(rb"\| +(prompt_toolkit|torch|transformers|numpy|av)\b", done.stderr)


@pytest.fixture
def resting():
    """Run lines on an engine that rests in its second answer, and wait until it does."""
    command = [sys.executable, SLOW, "1", "2", *TINY, CLIP]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(QUESTIONS.encode())
    process.stdin.flush()
    assert process.stdout.readline() == b"It is a circle.\n"
    assert process.stdout.read(5) == b"It is"
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_in_a_pipe_ends_everything_and_keeps_what_was_said(resting, state):
    resting.send_signal(signal.SIGINT)

    output, notes = resting.communicate(timeout=60)

    assert (resting.returncode, output, notes) == (130, b"\n", b"")
    assert [(turn["answer"], turn["is_stopped"]) for turn in saved(state)["turns"]] == [
        ("It is a circle.", False),
        ("It is", True),
    ]


def test_killed_in_the_middle_of_an_answer_the_finished_turn_is_there(resting, state):
    resting.kill()
    resting.wait()

    status, answers, _ = run("-c", lines="What color is it?\n")

    assert (status, answers) == (0, ["It is red."])
    assert [turn["question"] for turn in saved(state)["turns"]] == ["What shape is it?", "What color is it?"]


def test_reader_that_goes_away_ends_it_quietly(state):
    command = [sys.executable, "-m", "videollava_cli", *TINY, CLIP]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        process.stdin.write(QUESTIONS.encode())
        process.stdin.close()

        assert (process.stderr.read(), process.wait(timeout=120)) == (b"", 0)


def test_help_names_every_option_of_ask_with_examples():
    shown = {}
    for command in ("ask", "chat"):
        done = vllava(command, "--help", COLUMNS="120")
        shown[command] = set(re.findall(r"--[a-z0-9-]+", done.stdout))

    assert shown["ask"] - shown["chat"] == {"--question", "--stream", "--no-stream"}
    assert shown["chat"] - shown["ask"] == {
        *("--continue", "--list", "--delete", "--save", "--no-save", "--keep-last"),
    }
    assert "vllava chat -c" in done.stdout
