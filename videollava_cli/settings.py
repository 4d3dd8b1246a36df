"""Settings and where they come from: default < config file < preset < environment < flag. Pure but for TOML files."""

import difflib
import math
import os.path
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from videollava_cli.errors import CheckpointError, UsageError
from videollava_cli.media import NUM_FRAMES

ENVIRONMENT_PREFIX = "VLLAVA_"
CHOICES = {
    "dtype": ("auto", "float16", "bfloat16", "float32"),
    "attn_implementation": ("eager", "sdpa", "flash_attention_2"),
    "prompt_style": ("newline", "joined"),
    "fit": ("crop", "pad", "stretch"),
}

ANSWER_KEYS = (
    *("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed"),
    *("system", "prompt_style", "start", "end", "at"),
)
PRESET_KEY = "checkpoint"  # what a preset stands for; elsewhere `model` names it
HINTS = {
    "flash_attn": "; say attn_implementation = 'flash_attention_2'",
    PRESET_KEY: "; say model = 'FOLDER or hub id'",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a user can set, resolved once. Field names are the keys of config files and presets."""

    model: str = "7b"
    checkpoint: str | None = None
    revision: str | None = None
    offline: bool = False
    device: str = "auto"
    dtype: str = "auto"
    load_4bit: bool = False
    load_8bit: bool = False
    cache: bool = True
    attn_implementation: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int = 0
    system: str | None = None
    prompt_style: str = "newline"
    fit: str = "crop"
    start: float | None = None
    end: float | None = None
    at: str | None = None
    decode_threads: int | None = None

    def __post_init__(self) -> None:
        for problem in (*_number_problems(self), *_combination_problems(self)):
            raise UsageError(problem)

    @property
    def moments(self) -> tuple[float, ...] | None:
        """The seconds of `at`."""
        return None if self.at is None else _seconds(self.at)


def _number_problems(s: Settings) -> Iterator[str]:
    """Yield what is wrong with single numbers."""
    for key in ("temperature", "repetition_penalty", "start", "end"):
        if not math.isfinite(getattr(s, key) or 0):
            yield f"{key} is {getattr(s, key)}: give a finite number"
    if s.max_new_tokens < 1:
        yield f"max_new_tokens is {s.max_new_tokens}: give at least 1"
    if s.temperature < 0:
        yield f"temperature is {s.temperature}: give 0 for greedy answers, or more to sample"
    if s.top_p is not None and not 0 < s.top_p <= 1:
        yield f"top_p is {s.top_p}: give more than 0 and at most 1"
    if s.top_k is not None and s.top_k < 1:
        yield f"top_k is {s.top_k}: give at least 1"
    if s.repetition_penalty <= 0:
        yield f"repetition_penalty is {s.repetition_penalty}: give more than 0 (1 is none)"
    if not 0 <= s.seed < 1 << 63:
        yield f"seed is {s.seed}: give 0 or more, below 2**63"
    if s.start is not None and s.start < 0:
        yield f"start is {s.start}: give seconds from the beginning of the clip, 0 or more"
    if s.end is not None and s.end <= (s.start or 0):
        yield f"end is {s.end}: give seconds after the start, {s.start or 0}"
    if s.decode_threads is not None and s.decode_threads < 1:
        yield f"decode_threads is {s.decode_threads}: give at least 1"
    if s.at is not None:
        yield from _moment_problems(s.at)


def _moment_problems(at: str) -> Iterator[str]:
    """Yield what is wrong with the moments to take frames of."""
    try:
        seconds = _seconds(at)
    except ValueError:
        yield f"at is {at!r}: give {NUM_FRAMES} times in seconds, with commas between them"
        return
    if len(seconds) != NUM_FRAMES:
        yield f"at has {len(seconds)} time{'s' if len(seconds) > 1 else ''}: give {NUM_FRAMES}, one for each frame"
    if not all(math.isfinite(moment) and moment >= 0 for moment in seconds) or list(seconds) != sorted(seconds):
        yield f"at is {at!r}: give seconds from the beginning of the clip, in ascending order"


def _seconds(at: str) -> tuple[float, ...]:
    return tuple(float(text) for text in at.split(","))


def _combination_problems(s: Settings) -> Iterator[str]:
    """Yield what is wrong with names, and with settings that do not go together."""
    if s.temperature == 0 and (s.top_p is not None or s.top_k is not None):
        yield "top_p and top_k choose among sampled tokens, and answers are greedy: add --temperature 0.7, say"
    if s.load_4bit and s.load_8bit:
        yield "load_4bit and load_8bit exclude each other: give one of them"
    if s.at is not None and (s.start is not None or s.end is not None):
        yield "at names the frames to take, start and end a part to sample from: give one or the other"
    for key, choices in CHOICES.items():
        value = getattr(s, key)
        if value is not None and value not in choices:
            yield f"{key} is {value!r}: choose from {', '.join(choices)}"
    if s.attn_implementation == "flash_attention_2":
        if s.device == "cpu" or s.device.startswith("mps"):
            yield f"Flash-Attention 2 needs a CUDA GPU, and the device is {s.device!r}: leave --flash-attn out"
        if s.dtype == "float32":
            yield "Flash-Attention 2 needs float16 or bfloat16, and dtype is 'float32': give --dtype float16"


def resolve(
    flags: Mapping[str, object],
    *,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    presets: Path,
) -> Settings:
    """Resolve the settings: default < config file < preset < environment < flag.

    Args:
        flags: What the command line or a caller gave; None means not given.
        config_file: A TOML file, or None; it may name the model, whose preset then counts more than the file.
        environment: The process environment; `VLLAVA_<KEY>` are read.
        presets: The folder of the presets' TOML files.

    Raises:
        UsageError: If a key is unknown, or a value has the wrong type or is impossible.
        CheckpointError: If the model is neither a preset nor a folder nor a hub id.
    """
    given = _checked({k: v for k, v in flags.items() if v is not None}, "the options")
    from_environment = _read_environment(environment or {})
    from_file = _read_toml(config_file) if config_file else {}
    layers = (from_file, from_environment, given)
    model = str(next((layer["model"] for layer in reversed(layers) if "model" in layer), Settings().model))
    from_preset = _read_preset(model, presets)
    settings: dict[str, Any] = {}
    for layer in (from_file, from_preset, from_environment, given):
        settings = _overlaid(settings, layer)
    return replace(Settings(), **settings | {"model": model})


def for_one_answer(settings: Settings, options: Mapping[str, object]) -> Settings:
    """Return the settings with some replaced that can change from answer to answer.

    Raises:
        UsageError: If an option is unknown, has a wrong value, or is one of loading.
    """
    for key in options:
        if key not in ANSWER_KEYS:
            raise UsageError(f"{key!r} cannot be set for one answer{closest(key, ANSWER_KEYS)}")
    current = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return Settings(**_overlaid(current, _checked(options, "the options")))


def from_text(key: str, text: str) -> object:
    """Return what a user typed for a setting as a value of its type; `none` unsets what may be unset.

    Raises:
        UsageError: If it is no such value; whether there is such a setting, `for_one_answer` tells.
    """
    if text.lower() == "none" and type(None) in _types().get(key, ()):
        return None
    return _parsed(key, text)


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one layer of settings over another; greedy above means that ways of sampling below are meant no more."""
    dropped = ("top_p", "top_k") if above.get("temperature") == 0 else ()
    return {key: value for key, value in below.items() if key not in dropped} | dict(above)


def presets_folder() -> Path:
    """Return the folder of the presets: inside the installed package, else at the top of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def preset_names(presets: Path) -> list[str]:
    """Return the names of the presets in a folder, sorted."""
    return sorted(path.stem for path in presets.glob("*.toml"))


def closest(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for a word that looks like one of the choices, else nothing."""
    found = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _read_preset(model: str, presets: Path) -> dict[str, Any]:
    """Return the preset's values; a folder or a hub id is its own checkpoint."""
    if model in preset_names(presets):
        return _read_toml(presets / f"{model}.toml", is_preset=True)
    if os.path.isdir(os.path.expanduser(model)) or model.count("/") == 1:
        return {"checkpoint": model}
    names = preset_names(presets)
    raise CheckpointError(
        f"no model {model!r}{closest(model, names) or ':'} give a preset ({', '.join(names)}), a folder, or a hub id "
        f"such as LanguageBind/Video-LLaVA-7B-hf"
    )


def _read_toml(path: Path, *, is_preset: bool = False) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the config file {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the config file {str(path)!r} is not TOML: {error}") from error
    return _checked(values, f"{str(path)!r}", is_preset=is_preset)


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): _parsed(name, text)
        for name, text in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    return _checked(values, "the environment")


def _parsed(name: str, text: str) -> object:
    """Return an environment variable's text as the type of its setting."""
    wanted = _types().get(name.removeprefix(ENVIRONMENT_PREFIX).lower(), (str,))
    if bool in wanted:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if text.lower() not in words:
            raise UsageError(f"{name} is {text!r}: give 1 or 0")
        return words[text.lower()]
    for kind in (int, float):
        if kind in wanted:
            try:
                return kind(text)
            except ValueError as error:
                raise UsageError(f"{name} is {text!r}: give a number") from error
    return text


def _checked(values: Mapping[str, Any], where: str, *, is_preset: bool = False) -> dict[str, Any]:
    """Return the values if every key is known and every type right."""
    types = _types()
    for key, value in values.items():
        if key not in types or (key == PRESET_KEY and not is_preset):
            raise UsageError(f"unknown setting {key!r} in {where}{HINTS.get(key) or closest(key, types)}")
        wanted = (*types[key], int) if float in types[key] else types[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(t.__name__ for t in types[key] if t is not type(None))
            raise UsageError(f"{key} in {where} is {value!r}: give a value of type {names}")
    return dict(values)


def _types() -> dict[str, tuple[type, ...]]:
    """Return the types that each setting may have."""
    hints = get_type_hints(Settings)
    return {f.name: get_args(t) if isinstance(t := hints[f.name], UnionType) else (t,) for f in fields(Settings)}
