"""The options that commands share: one spelling and one meaning each; and how they become settings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from videollava_cli.settings import Settings, presets_folder, resolve

MODEL, PROMPT, ANSWER, CLIP, OUTPUT = "Model", "Question", "Answer", "Clip", "Output"
WORK = "Work"


def _option(help_text: str, panel: str, *names: str, metavar: str | None = None) -> typer.models.OptionInfo:
    option = typer.Option(*names, help=help_text, rich_help_panel=panel, metavar=metavar, show_default=False)
    assert isinstance(option, typer.models.OptionInfo)
    return option


Model = Annotated[
    str | None,
    _option("Preset (7b, 7b-4bit, tiny), hub id or local folder. Default: 7b", MODEL, "-m", "--model"),
]
Revision = Annotated[str | None, _option("Branch, tag or commit of a hub id.", MODEL, "--revision")]
Offline = Annotated[bool | None, _option("Use what is on this disk only.", MODEL, "--offline/--no-offline")]
Device = Annotated[str | None, _option("auto, cpu, cuda, cuda:1 or mps. Default: auto", MODEL, "--device")]
Dtype = Annotated[
    str | None,
    _option("auto (float16 on a GPU, float32 on a CPU), float16, bfloat16 or float32.", MODEL, "--dtype"),
]
Load4bit = Annotated[
    bool | None, _option("Load the weights as 4-bit nf4 (bitsandbytes).", MODEL, "--load-4bit/--no-load-4bit")
]
Load8bit = Annotated[
    bool | None, _option("Load the weights as 8-bit integers (GPU only).", MODEL, "--load-8bit/--no-load-8bit")
]
Cache = Annotated[
    bool | None, _option("Keep 4-bit weights on disk for next time (default), or do not.", MODEL, "--cache/--no-cache")
]
FlashAttn = Annotated[bool, _option("Same as --attn-implementation flash_attention_2.", MODEL, "--flash-attn")]
AttnImplementation = Annotated[str | None, _option("eager, sdpa or flash_attention_2.", MODEL, "--attn-implementation")]
Questions = Annotated[
    list[str] | None,
    _option("A question; repeat it for more. All positionals are media then.", PROMPT, "-q", "--question"),
]
System = Annotated[str | None, _option("Text before the conversation.", PROMPT, "--system", metavar="TEXT")]
PromptStyle = Annotated[
    str | None,
    _option(
        "What follows a placeholder: newline (default) or joined, as older docs have it.",
        PROMPT,
        "--prompt-style",
    ),
]
MaxNewTokens = Annotated[
    int | None, _option("Longest answer, in tokens. Default: 512", ANSWER, "--max-new-tokens", metavar="N")
]
Temperature = Annotated[
    float | None,
    _option("0 is greedy (default); more makes answers vary.", ANSWER, "--temperature", metavar="X"),
]
TopP = Annotated[
    float | None,
    _option("Sample from the likeliest tokens of this total probability.", ANSWER, "--top-p", metavar="P"),
]
TopK = Annotated[int | None, _option("Sample from the K likeliest tokens.", ANSWER, "--top-k", metavar="K")]
RepetitionPenalty = Annotated[
    float | None, _option("Above 1, repeating costs. Default: 1", ANSWER, "--repetition-penalty", metavar="X")
]
Seed = Annotated[int | None, _option("Seed for sampling. Default: 0", ANSWER, "--seed", metavar="N")]
Start = Annotated[float | None, _option("Sample from this second on.", CLIP, "--start", metavar="SECONDS")]
End = Annotated[float | None, _option("Sample up to this second.", CLIP, "--end", metavar="SECONDS")]
At = Annotated[
    str | None,
    _option("Take the frames on display at these eight seconds: 0,1.5,3,...", CLIP, "--at", metavar="SECONDS,..."),
]
DecodeThreads = Annotated[
    int | None,
    _option("Threads that decode a video. Default: one a processor", CLIP, "--decode-threads", metavar="N"),
]
Fit = Annotated[
    str | None,
    _option("crop (default): the centre square; pad: all, with bars; stretch: all, out of proportion.", CLIP, "--fit"),
]
Json = Annotated[bool, _option("Print one JSON object a question, one a line.", OUTPUT, "--json")]
JsonObject = Annotated[bool, _option("Print one JSON object.", OUTPUT, "--json")]
Sheet = Annotated[
    Path | None,
    _option("Write the picture to this file: .png, .jpg or .webp.", OUTPUT, "-o", "--output", metavar="FILE"),
]
Stream = Annotated[
    bool | None,
    _option("Print the answer as it is written (default) or at its end.", OUTPUT, "--stream/--no-stream"),
]
Quiet = Annotated[bool, _option("No notes and no progress on stderr.", OUTPUT, "--quiet")]
Verbose = Annotated[bool, _option("Say on stderr which frames, how many tokens, how fast.", OUTPUT, "--verbose")]
Config = Annotated[
    Path | None,
    _option("Read this file in place of your config.toml.", OUTPUT, "--config", metavar="FILE.toml"),
]

Continue = Annotated[
    bool, _option("Take up the last conversation, its media and settings.", PROMPT, "-c", "--continue")
]
NoSave = Annotated[bool, _option("Keep neither the conversation nor the typed lines on disk.", OUTPUT, "--no-save")]
FromFile = Annotated[
    str | None,
    _option("A file that lists media, one a line; - is stdin.", WORK, "--from-file", metavar="LIST|-"),
]
Null = Annotated[bool, _option("The list is NUL-separated, as of find -print0.", WORK, "-0", "--null")]
Glob = Annotated[
    list[str] | None,
    _option("Take such files of folders only, '*.mp4' say; repeat it for more.", WORK, "--glob", metavar="PATTERN"),
]
QuestionsFile = Annotated[
    str | None,
    _option(
        'Questions, one a line; or JSON lines {"path", "question", "id"?}, for each clip its own.',
        PROMPT,
        "--questions",
        metavar="FILE|-",
    ),
]
Shard = Annotated[
    str | None,
    _option("Do the I-th of N parts of the work, chosen by a hash of each path.", WORK, "--shard", metavar="I/N"),
]
Ray = Annotated[
    str | None,
    _option(
        "Spread the work over a Ray: one of its own here, or that at HOST:PORT or auto.",
        WORK,
        "--ray",
        metavar="[ADDRESS]",
    ),
]
DryRun = Annotated[bool, _option("List what would be asked, as JSON lines, and ask nothing.", WORK, "--dry-run")]
BatchSize = Annotated[
    str | None,
    _option("Questions answered at once. Default: auto, what fits", ANSWER, "--batch-size", metavar="N|auto"),
]
Lines = Annotated[
    Path | None,
    _option("Append to this file, and skip what it holds already.", OUTPUT, "-o", "--output", metavar="OUT.jsonl"),
]
RedoFailed = Annotated[bool, _option("Ask again what failed before.", OUTPUT, "--redo-failed")]
Overwrite = Annotated[bool, _option("Empty the file first.", OUTPUT, "--overwrite")]
Unordered = Annotated[bool, _option("Write lines as they come, not in the order of the media.", OUTPUT, "--unordered")]
JsonSummary = Annotated[
    Path | None, _option("Write the counts and seconds to this file.", OUTPUT, "--json-summary", metavar="FILE")
]


def user_config(environment: Mapping[str, str]) -> Path | None:
    """Return the user's config file if there is one: `$XDG_CONFIG_HOME/vllava/config.toml`."""
    home = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    path = Path(home) / "vllava" / "config.toml"
    return path if path.exists() else None


def settings_from(flags: Mapping[str, object], config: Path | None) -> Settings:
    """Resolve the settings of a command from its flags, a config file and the process environment.

    Raises:
        UsageError: If a value or key is wrong.
        CheckpointError: If the model has no such name.
    """
    environment = dict(os.environ)
    if environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        environment.setdefault("VLLAVA_OFFLINE", "1")
    return resolve(
        flags,
        config_file=config or user_config(environment),
        environment=environment,
        presets=presets_folder(),
    )
