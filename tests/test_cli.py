"""The command line as a shell sees it: streams, exit statuses, one line for each mistake."""

import inspect
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import vllava
from media_files import write_sound, write_video

from videollava_cli import __version__
from videollava_cli.cli import make_app

VLLAVA = [sys.executable, "-m", "videollava_cli"]
HEAVY = {"torch", "transformers", "av", "PIL", "numpy", "huggingface_hub", "accelerate", "bitsandbytes", "safetensors"}
QUESTION = "What happens?"
EIGHT = "0,.1,.2,.3,.4,.5,.6,.7"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a clip and things that are none, and with an empty hub cache."""
    write_video(tmp_path / "clip.mp4", 8)
    write_sound(tmp_path / "sound.m4a")
    (tmp_path / "text.mp4").write_text("Dear diary,\n")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


def process(*arguments, **options):
    """Run the tool as a process; stdin is empty unless the options say otherwise."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([*VLLAVA, *arguments], check=False, timeout=300, **options)


def refusal(*arguments, **options):
    """Run the tool; return its exit status and its error, after making sure that there was nothing else."""
    done = vllava(*arguments, **options)
    [line] = done.stderr.splitlines()
    assert done.stdout == ""
    assert line.startswith("vllava: error: ")
    return done.status, line.removeprefix("vllava: error: ")


def imported(*arguments):
    """Run Python with these arguments; return the heavy packages that it imported."""
    run = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(run, capture_output=True, check=False, text=True, stdin=subprocess.DEVNULL)
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "videollava_cli" in names
    return names & HEAVY


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.mp4", QUESTION], 3, "no such file: 'nowhere.mp4'"),
        (["klip.mp4", QUESTION], 3, "no such file: 'klip.mp4'; did you mean 'clip.mp4'?"),
        (["text.mp4", QUESTION], 3, "'text.mp4' is no video or image that can be read: it is plain text"),
        (["empty.mp4", QUESTION], 3, "'empty.mp4' is empty: 0 bytes"),
        (["folder", QUESTION], 3, "'folder' is a folder: name the files in it, or ask "),
        (["sound.m4a", QUESTION], 3, "'sound.m4a' holds no video, only audio"),
        (["clip.mp4", "nowhere.mp4", QUESTION], 3, "no such file: 'nowhere.mp4'"),
        (["two\nlines.mp4", QUESTION], 3, "no such file: 'two\\nlines.mp4'"),
        (["\x1b[31m.mp4", QUESTION], 3, "no such file: '\\x1b[31m.mp4'"),
        (["http://127.0.0.1:1/clip.mp4", QUESTION], 3, "cannot fetch http://127.0.0.1:1/clip.mp4: "),
        (["https://example.org/a.mp4", QUESTION, "--offline"], 3, "offline, so https://example.org/a.mp4 cannot"),
        (["hf://owner/repo", QUESTION], 3, "'hf://owner/repo' is no file on the hub: write hf://"),
        (["-", QUESTION], 3, "stdin is empty: 0 bytes"),
        (["clip.mp4", ""], 2, "the question is empty: ask something, such as"),
        (["clip.mp4", "-q", " "], 2, "the question is empty: ask something, such as"),
        (["clip.mp4"], 2, "media and a question are needed: vllava ask clip.mp4 "),
        (["clip.mp4", "text.mp4"], 2, "the last argument is the question, and 'text.mp4' is a file: add a question"),
        (["-q", QUESTION], 2, "a video or image is needed: vllava ask clip.mp4 "),
        (["-", "-", QUESTION], 2, "'-' is given more than once, and stdin can be read only once"),
        (["clip.mp4", QUESTION, "-m", "tinny"], 5, "no model 'tinny'; did you mean 'tiny'? give a preset (7b, "),
        (["clip.mp4", QUESTION, "-m", "nobody/nothing", "--offline"], 5, "offline, and 'nobody/nothing' is not in "),
        (["clip.mp4", QUESTION, "-m", "folder"], 5, "'folder' is no checkpoint: it has no config.json"),
        (["clip.mp4", QUESTION, "-m", "./nowhere"], 5, "'./nowhere' is neither a folder nor a hub id such as "),
        (["clip.mp4", QUESTION, "--flash-attn", "--device", "cpu"], 2, "Flash-Attention 2 needs a CUDA GPU, and the "),
        (
            ["clip.mp4", QUESTION, "--flash-attn", "--attn-implementation", "sdpa"],
            2,
            "--flash-attn and --attn-implementation sdpa exclude each other",
        ),
        (["clip.mp4", QUESTION, "--top-p", "0.9"], 2, "top_p and top_k choose among sampled tokens, and answers are "),
        (["clip.mp4", QUESTION, "--load-4bit", "--load-8bit"], 2, "load_4bit and load_8bit exclude each other: "),
        (["clip.mp4", QUESTION, "--dtype", "int3"], 2, "dtype is 'int3': choose from auto, float16, "),
        (["clip.mp4", QUESTION, "--start", "3", "--end", "2"], 2, "end is 2.0: give seconds after the start, 3.0"),
        (["clip.mp4", QUESTION, "--at", "0,.1,.2,.3,.4,.5,.6"], 2, "at has 7 times: give 8, one for each frame"),
        (["clip.mp4", QUESTION, "--at", "now"], 2, "at is 'now': give 8 times in seconds, with commas between them"),
        (["clip.mp4", QUESTION, "--at", "7,6,5,4,3,2,1,0"], 2, "at is '7,6,5,4,3,2,1,0': give seconds from the "),
        (["clip.mp4", QUESTION, "--at", EIGHT, "--start", "1"], 2, "at names the frames to take, start and end a "),
        (["clip.mp4", QUESTION, "--decode-threads", "0"], 2, "decode_threads is 0: give at least 1"),
        (
            ["clip.mp4", QUESTION, "-m", "tiny", "--at", f"{EIGHT[:-1]}8"],
            3,
            "'clip.mp4' has no frame at 0.8 s: its last ",
        ),
        (["clip.mp4", QUESTION, "--seed", "x"], 2, "Invalid value for '--seed': "),
        (["clip.mp4", QUESTION, "--tempereture", "1"], 2, "No such option: --tempereture"),
        (["clip.mp4", QUESTION, "--config", "no.toml"], 2, "cannot read the config file 'no.toml': No such file"),
    ],
)
def test_mistake_is_told_in_one_line_on_stderr_with_its_exit_status(folder, arguments, status, message):
    found_status, found_message = refusal("ask", *arguments)

    assert (found_status, found_message[: len(message)]) == (status, message)


def test_unknown_command_is_refused_with_a_suggestion():
    status, message = refusal("aks")

    assert (status, message[:43]) == (2, "No such command 'aks'. Did you mean 'ask'?:")


@pytest.mark.parametrize("arguments", [[], ["ask"]])
def test_no_arguments_show_the_help_and_end_with_a_usage_status(arguments):
    done = vllava(*arguments)

    assert done.status == 2
    assert "Usage: vllava" in done.stdout + done.stderr
    assert "error" not in done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_goes_to_stdout_and_tells_the_exit_statuses(flag):
    done = vllava(flag)

    assert (done.status, done.stderr) == (0, "")
    assert "Exit status: 0 answered" in done.stdout


def test_help_of_ask_names_every_option_with_examples():
    done = vllava("ask", "--help", COLUMNS="120")

    shown = set(re.findall(r"--[a-z0-9-]+", done.stdout))
    assert (done.status, done.stderr) == (0, "")
    assert "vllava ask clip.mp4" in done.stdout
    assert shown >= {
        *("--model", "--revision", "--offline", "--device", "--dtype", "--load-4bit", "--load-8bit", "--flash-attn"),
        *("--attn-implementation", "--question", "--system", "--prompt-style", "--max-new-tokens", "--temperature"),
        *("--top-p", "--top-k", "--repetition-penalty", "--seed", "--start", "--end", "--json", "--stream"),
        *("--no-stream", "--quiet", "--verbose", "--config", "--help"),
    }


def test_version_is_the_packages_own():
    done = process("--version")

    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"vllava {__version__}\n", b"")


@pytest.mark.parametrize("words", [["version"], ["-V"], ["--version"]])
def test_version_is_printed_as_in_other_tools(words):
    assert vllava(*words).stdout == f"vllava {__version__}\n"


@pytest.mark.parametrize("called", [["ask"], [], ["cache", "verify"], ["models", "pull"]])
def test_help_is_a_command_too(called):
    assert vllava("help", *called).stdout == vllava(*called, "-h").stdout != ""


def test_examples_are_where_they_are_said_to_be():
    done = vllava("examples")

    assert (done.status, done.stderr) == (0, "")
    assert (Path(done.stdout.removesuffix("\n")) / "circle-moves-right.mp4").is_file()


def test_help_about_no_command_is_told():
    done = vllava("help", "aks")

    assert (done.status, done.stdout) == (2, "")
    assert "No such command 'aks'" in done.stderr


def test_bytes_on_stdin_that_are_no_medium_are_refused():
    status, message = refusal("ask", "-", QUESTION, stdin=b"Dear diary,\n")

    assert (status, message[:47]) == (3, "'stdin' is no video or image that can be read: ")


def test_video_on_stdin_is_found(folder):
    video = (folder / "clip.mp4").read_bytes()

    status, message = refusal("ask", "-", QUESTION, "-m", "nobody/nothing", "--offline", stdin=video)

    assert (status, message[:41]) == (5, "offline, and 'nobody/nothing' is not in t")


def test_terminal_as_stdin_is_refused_rather_than_waited_for():
    ours, theirs = pty.openpty()

    done = process("ask", "-", QUESTION, stdin=theirs)

    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode() == (
        "vllava: error: '-' reads a video or image from stdin, and stdin is the terminal: pipe a file into it\n"
    )


def test_closed_stdin_is_refused():
    run = ["sh", "-c", 'exec "$@" <&-', "sh", *VLLAVA, "ask", "-", QUESTION]

    done = subprocess.run(run, capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (3, b"")
    assert b"and stdin is closed: pipe a file into it\n" in done.stderr


def test_ctrl_c_ends_with_its_status_and_no_traceback():
    run = subprocess.Popen(
        [*VLLAVA, "ask", "-", QUESTION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.stdin.write(b"x" * (1 << 20))  # more than a pipe holds: it returns once the tool is reading

    run.send_signal(signal.SIGINT)
    output, errors = run.communicate()

    assert (run.returncode, output, errors) == (130, b"", b"")


def test_closed_pipe_ends_quietly():
    theirs, ours = os.pipe()
    os.close(theirs)

    done = process("--version", stdout=ours)

    os.close(ours)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("closed", "arguments", "status"), [(">&-", ["--version"], 0), ("2>&-", ["ask", "nowhere.mp4", QUESTION], 3)]
)
def test_closed_stream_changes_no_exit_status(closed, arguments, status):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *VLLAVA, *arguments], capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_mistake_in_the_users_config_file_is_told(folder, monkeypatch):
    config = folder / "vllava" / "config.toml"
    config.parent.mkdir()
    config.write_text("sed = 1\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))

    status, message = refusal("ask", "clip.mp4", QUESTION)

    assert (status, message) == (2, f"unknown setting 'sed' in {str(config)!r}; did you mean 'seed'?")


def test_config_file_that_is_named_replaces_that_of_the_user(folder, monkeypatch):
    config = folder / "vllava" / "config.toml"
    config.parent.mkdir()
    config.write_text("sed = 1\n")
    (folder / "own.toml").write_text('model = "nobody/nothing"\noffline = true\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))

    status, message = refusal("ask", "clip.mp4", QUESTION, "--config", "own.toml")

    assert (status, message[:30]) == (5, "offline, and 'nobody/nothing' ")


def test_mistake_in_the_environment_is_told(folder, monkeypatch):
    monkeypatch.setenv("VLLAVA_SEED", "one")

    assert refusal("ask", "clip.mp4", QUESTION) == (2, "VLLAVA_SEED is 'one': give a number")


def test_the_hubs_own_offline_variable_is_honoured(folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    status, message = refusal("ask", "clip.mp4", QUESTION, "-m", "nobody/nothing")

    assert (status, message[:44]) == (5, "offline, and 'nobody/nothing' is not in the ")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ask", "--help"], ["ask", "clip.mp4", ""]])
def test_heavy_libraries_stay_out_of_what_needs_none(arguments):
    assert imported("-m", "videollava_cli", *arguments) == set()


def test_importing_the_package_imports_no_heavy_library():
    assert imported("-c", "import videollava_cli, videollava_cli.engine.startup, videollava_cli.reader") == set()


def test_missing_file_is_told_before_any_heavy_library_is_imported(folder):
    assert imported("-m", "videollava_cli", "ask", "nowhere.mp4", QUESTION) == set()


@pytest.mark.parametrize("name", ["text.mp4", "sound.m4a", "clip.mp4"])
def test_torch_and_transformers_wait_until_media_and_checkpoint_are_found(folder, name):
    run = ["-m", "videollava_cli", "ask", name, QUESTION, "-m", "nobody/nothing", "--offline"]

    assert not imported(*run) & {"torch", "transformers"}


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["--version"]])
def test_help_whose_reader_went_away_ends_quietly(arguments):
    ours, theirs = os.pipe()
    os.close(ours)

    done = process(*arguments, stdout=theirs)
    os.close(theirs)

    assert (done.returncode, done.stderr) == (0, b"")


def test_help_that_no_disk_takes_is_told_in_one_line():
    with open("/dev/full", "wb") as full:
        done = process("ask", "--help", stdout=full)

    assert (done.returncode, done.stderr) == (1, b"vllava: error: cannot write the help: No space left on device\n")


def test_json_and_stream_exclude_each_other(folder):
    status, message = refusal("ask", "clip.mp4", QUESTION, "--json", "--stream")

    assert (status, message) == (2, "--json and --stream exclude each other: a JSON line is printed whole")


CALLBACKS = [each.callback for each in make_app().registered_commands]
COMMANDS = [each.__name__ for each in CALLBACKS if "model" in inspect.signature(each).parameters]  # that ask the hub
BARS = """
import sys
from videollava_cli.cli import main
for sys.argv in {commands}:
    print(main(), end=" ")
from huggingface_hub.utils import are_progress_bars_disabled
print(are_progress_bars_disabled())
"""


def statuses_and_bars(*commands, options=()):
    """Run commands in one new process; return their statuses, and whether the hub's bars were disabled at the end."""
    arguments = {"ask": ["clip.mp4", QUESTION], "batch": ["clips", "-q", QUESTION], "frames": ["clip.mp4"]}
    lines = [["vllava", name, *arguments.get(name, []), "-m", "tinny", *options] for name in commands]
    done = subprocess.run(
        [sys.executable, "-c", BARS.format(commands=lines)], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    return done.stdout.decode().split()


def test_no_command_silences_the_bars_of_the_hub_by_itself():
    assert statuses_and_bars(*COMMANDS) == ["5"] * len(COMMANDS) + ["False"]


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_silences_the_bars_of_the_hub_in_every_command(command):
    assert statuses_and_bars(command, options=["--quiet"]) == ["5", "True"]


def test_question_longer_than_a_file_name_is_a_question(folder):
    status, message = refusal("ask", "nowhere.mp4", "why " * 100)

    assert (status, message) == (3, "no such file: 'nowhere.mp4'")


def completed(line, **environment):
    """Return what the shell offers at the end of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_VLLAVA_COMPLETE": "complete_bash"}
    program = os.path.join(os.path.dirname(sys.executable), "vllava")
    environment = {**os.environ, **words, **environment}
    done = subprocess.run([program], capture_output=True, check=True, text=True, env=environment)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vllava as", ["ask"]),
        ("vllava ask --fit ", ["crop", "pad", "stretch"]),
        ("vllava batch --dtype b", ["bfloat16"]),
        ("vllava chat --device c", ["cpu", "cuda"]),
        ("vllava ask --prompt-style ", ["newline", "joined"]),
        ("vllava doctor --attn-implementation e", ["eager"]),
        ("vllava frames -m 7", ["7b", "7b-4bit"]),
        ("vllava chat --model t", ["tiny"]),
        ("vllava models pull 7b-", ["7b-4bit"]),
    ],
)
def test_shell_completes_commands_and_values(line, expected, tmp_path):
    assert completed(line, HF_HOME=str(tmp_path)) == expected


def test_shell_completes_cached_checkpoints_and_passes_over_damaged_ones(tmp_path):
    for name, config in {"sound": '{"model_type": "video_llava"}', "other": '{"model_type": "llama"}'}.items():
        snapshot = tmp_path / "hub" / f"models--owner--{name}" / "snapshots" / "0123456789abcdef"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(config)
    dangling = tmp_path / "hub" / "models--owner--gone" / "snapshots" / "0123456789abcdef"
    dangling.mkdir(parents=True)
    (dangling / "config.json").symlink_to("nowhere")

    assert completed("vllava ask -m owner", HF_HOME=str(tmp_path)) == ["owner/sound"]


def test_completion_imports_neither_torch_nor_transformers(tmp_path):
    words = {"COMP_WORDS": "vllava ask -m t", "COMP_CWORD": "3", "_VLLAVA_COMPLETE": "complete_bash"}
    program = os.path.join(os.path.dirname(sys.executable), "vllava")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", program],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, **words, "HF_HOME": str(tmp_path)},
    )

    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "videollava_cli.doctor.models" in names
    assert not names & {"torch", "transformers", "av", "numpy"}
