"""THE table of settings, and where values come from: default < config file < preset < environment < flag.

Config files, presets, the environment, `load(...)`, `/set` and the options of every command derive from the table. To
add a setting, add a field to `Settings`.
"""

import difflib
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_type_hints

from videollava_cli.errors import CheckpointError, UsageError
from videollava_cli.media import NUM_FRAMES
from videollava_cli.sampling import Moments, Sampling, Window, parse_seconds
from videollava_cli.text import check_unicode, decoded, parsed

# Fixed when an engine is loaded, free to change from answer to answer, or a matter of `vllava chat` alone.
Scope = Literal["engine", "answer", "chat"]
Panel = Literal["Question", "Model", "Answer", "Clip", "Output"]  # of a command's help

ENVIRONMENT_PREFIX = "VLLAVA_"
SWITCH_WORDS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
XDG_DEFAULTS = {"CONFIG": ".config", "CACHE": ".cache", "STATE": ".local/state"}
# Temperatures, as in vLLM: the likeliest token has all the probability, and logits / 1e-40 would be infinite.
GREEDY_BELOW = 1e-5
PRESET_KEY = "checkpoint"  # what a preset stands for; elsewhere `model` names it
PRESET_DTYPE = "cpu_dtype"  # of a preset: what the dtype `auto` is on a CPU
PRESET_TABLE = "image_processor"  # of a preset: how its checkpoint prepares pictures
HINTS = {
    "flash_attn": "; say attn_implementation = 'flash_attention_2'",
    PRESET_KEY: "; say model = 'FOLDER or hub id'",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What the table says about a setting besides its name, its type and its default."""

    scope: Scope
    panel: Panel
    help: str  # `{default}` stands for the default
    metavar: str | None = None
    short_flag: str | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None  # of a text that may stand for a value, such as 1:30 for 90.0
    accepts: Callable[[Any], bool] = lambda value: True
    advice: str = ""  # ends the message about a value that is not accepted
    is_identity: bool = False  # answers depend on it, as they do on all settings of their scope


def _row(scope: Scope, panel: Panel, default: object, help_text: str, **more: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(scope, panel, help_text, **more)})


_model = partial(_row, "engine", "Model")
_answer = partial(_row, "answer", "Answer")
_question = partial(_row, "answer", "Question")
_frames = partial(_row, "answer", "Clip")
_reading = partial(_row, "engine", "Clip")
_AT_LEAST_1: Any = {"accepts": lambda n: n >= 1, "advice": "give at least 1"}
_TIME: Any = {
    "metavar": "TIME",
    "parse": parse_seconds,
    "advice": "give a time from the beginning of the clip, such as 90, 1.5s or 1:02:03.5",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a user can set, resolved once. Field names are the keys of config files and presets."""

    model: str = _model("7b", "Preset (7b, 7b-4bit, tiny), hub id or local folder. Default: {default}", short_flag="-m")
    checkpoint: str | None = None  # set by presets only, as the next one
    cpu_dtype: str | None = None
    revision: str | None = _model(None, "Branch, tag or commit of a hub id.", is_identity=True)
    offline: bool = _model(False, "Use what is on this disk only.")
    device: str = _model("auto", "auto, cpu, cuda, cuda:1 or mps. Default: {default}")
    dtype: str = _model(
        "auto",
        "auto (float16 on a GPU; on a CPU bfloat16 if that is fast or float32 too large, else float32), float16, "
        "bfloat16 or float32.",
        choices=("auto", "float16", "bfloat16", "float32"),
        is_identity=True,
    )
    load_4bit: bool = _model(False, "Load the weights as 4-bit nf4 (bitsandbytes).")
    load_8bit: bool = _model(False, "Load the weights as 8-bit integers (GPU only).")
    cache: bool = _model(True, "Keep 4-bit weights on disk for next time (default), or do not.")
    force: bool = _model(False, "Load the model even if the memory seems too small for it.")
    attn_implementation: str | None = _model(
        None, "eager, sdpa or flash_attention_2.", choices=("eager", "sdpa", "flash_attention_2")
    )
    max_new_tokens: int = _answer(512, "Longest answer, in tokens. Default: {default}", metavar="N", **_AT_LEAST_1)
    temperature: float = _answer(
        0.0,
        "0 is greedy (default); more makes answers vary.",
        metavar="X",
        accepts=lambda n: n >= 0,
        advice="give 0 for greedy answers, or more to sample",
    )
    top_p: float | None = _answer(
        None,
        "Sample from the likeliest tokens of this total probability.",
        metavar="P",
        accepts=lambda n: 0 < n <= 1,
        advice="give more than 0 and at most 1",
    )
    top_k: int | None = _answer(None, "Sample from the K likeliest tokens.", metavar="K", **_AT_LEAST_1)
    repetition_penalty: float = _answer(
        1.0,
        "Above 1, repeating costs. Default: {default}",
        metavar="X",
        accepts=lambda n: n > 0,
        advice="give more than 0 (1 is none)",
    )
    seed: int = _answer(
        0,
        "Seed for sampling. Default: {default}",
        metavar="N",
        accepts=lambda n: 0 <= n < 1 << 63,
        advice="give 0 or more, below 2**63",
    )
    system: str | None = _question(None, "Text before the conversation.", metavar="TEXT")
    prompt_style: str = _question(
        "newline",
        "What follows a placeholder: newline (default) or joined, as older docs have it.",
        choices=("newline", "joined"),
    )
    start: float | None = _frames(None, "Sample from this time on: 90, 90s or 1:30.", accepts=lambda n: n >= 0, **_TIME)
    end: float | None = _frames(None, "Sample up to this time.", **_TIME)
    at: str | None = _frames(None, "Take the frames on display at these eight times: 0,1.5,3,...", metavar="TIME,...")
    decode_threads: int | None = _reading(
        None, "Threads that decode a video. Default: one a processor", metavar="N", **_AT_LEAST_1
    )
    fit: str = _reading(
        "crop",
        "crop (default): the centre square; pad: all, with bars; stretch: all, out of proportion.",
        choices=("crop", "pad", "stretch"),
        is_identity=True,
    )
    save: bool = _row("chat", "Output", True, "Keep conversations and typed lines on disk (default), or do not.")
    keep_last: int = _row(
        "chat", "Output", 100, "Conversations to keep on disk. Default: {default}", metavar="N", **_AT_LEAST_1
    )

    def __post_init__(self) -> None:
        for key in DEFAULTS:
            if isinstance(value := getattr(self, key), str):
                check_unicode(value, key)
        for key, setting in SETTINGS.items():
            if (value := getattr(self, key)) is not None and (problem := _problem(value, setting)):
                raise UsageError(f"{key} is {problem}")
        if problem := next(_problems(self), None):
            raise UsageError(problem)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def sampling(self) -> Sampling:
        """Which frames of a clip to take."""
        return Window(self.start, self.end) if self.at is None else Moments(_seconds(self.at))


SETTINGS: dict[str, Setting] = {row.name: row.metadata["setting"] for row in fields(Settings) if row.metadata}
DEFAULTS = {row.name: row.default for row in fields(Settings)}
TYPES: dict[str, tuple[type, ...]] = {
    name: get_args(hint) if isinstance(hint, UnionType) else (hint,) for name, hint in get_type_hints(Settings).items()
}
ANSWER_KEYS = tuple(key for key, setting in SETTINGS.items() if setting.scope == "answer")
IDENTITY_KEYS = tuple(key for key, setting in SETTINGS.items() if setting.is_identity or key in ANSWER_KEYS)


def _problem(value: Any, setting: Setting) -> str | None:
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:  # nor is nan
        return f"{value}: give a finite number"
    if setting.choices and value not in setting.choices:
        return f"{value!r}: choose from {', '.join(setting.choices)}"
    return None if setting.accepts(value) else f"{value}: {setting.advice}"


def _problems(s: Settings) -> Iterator[str]:
    if s.end is not None and s.end <= (s.start or 0):
        yield f"end is {s.end}: give seconds after the start, {s.start or 0}"
    if s.temperature == 0 and (s.top_p is not None or s.top_k is not None):
        yield "top_p and top_k choose among sampled tokens, and answers are greedy: add --temperature 0.7, say"
    if s.load_4bit and s.load_8bit:
        yield "load_4bit and load_8bit exclude each other: give one of them"
    if s.attn_implementation == "flash_attention_2":
        if s.device == "cpu" or s.device.startswith("mps"):
            yield f"Flash-Attention 2 needs a CUDA GPU, and the device is {s.device!r}: leave --flash-attn out"
        if s.dtype == "float32":
            yield "Flash-Attention 2 needs float16 or bfloat16, and dtype is 'float32': give --dtype float16"
    if s.at is None:
        return
    try:
        seconds = _seconds(s.at)
    except ValueError:
        yield f"at is {s.at!r}: give {NUM_FRAMES} times in seconds, with commas between them"
        return
    if len(seconds) != NUM_FRAMES:
        yield f"at has {len(seconds)} time{'s' if len(seconds) > 1 else ''}: give {NUM_FRAMES}, one for each frame"
    if not all(math.isfinite(moment) and moment >= 0 for moment in seconds) or list(seconds) != sorted(seconds):
        yield f"at is {s.at!r}: give seconds from the beginning of the clip, in ascending order"
    if s.start is not None or s.end is not None:
        yield "at names the frames to take, start and end a part to sample from: give one or the other"


def _seconds(at: str) -> tuple[float, ...]:
    return tuple(map(parse_seconds, at.split(",")))


def resolve(
    flags: Mapping[str, object],
    *,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    presets: Path,
) -> Settings:
    """Resolve the settings: default < config file < preset < environment < flag.

    A flag that is None is not given. The config file may name the model, whose preset then counts more than the file.
    Of the environment `VLLAVA_<KEY>` are read. Raises UsageError, or CheckpointError if there is no such model.
    """
    given = _checked({k: v for k, v in flags.items() if v is not None}, where="the options")
    from_environment = _read_environment(environment or {})
    from_file = _read_config(config_file) if config_file else {}
    model = str((DEFAULTS | from_file | from_environment | given)["model"])
    settings: dict[str, Any] = {}
    for layer in (from_file, _read_preset(model, presets), from_environment, given):
        settings = _overlaid(settings, layer)
    return Settings(**settings | {"model": model})


def settings_from(flags: Mapping[str, object], config_file: Path | None = None) -> Settings:
    """Resolve the settings of a command from its flags, a config file or the user's own, and the environment."""
    environment = dict(os.environ)
    if SWITCH_WORDS.get(environment.get("HF_HUB_OFFLINE", "").lower()):
        environment.setdefault("VLLAVA_OFFLINE", "1")
    users_own = xdg_folder("CONFIG") / "config.toml"
    if config_file is None:
        try:
            config_file = users_own if users_own.exists() else None
        except OSError:  # its folder may not be entered, say: reading the file says so
            config_file = users_own
    return resolve(flags, config_file=config_file, environment=environment, presets=presets_folder())


def xdg_folder(kind: Literal["CONFIG", "CACHE", "STATE"], environment: Mapping[str, str] = os.environ) -> Path:
    """Return our folder of a kind, `$XDG_<KIND>_HOME/vllava`; XDG says to ignore a path there that is relative."""
    home = environment.get(f"XDG_{kind}_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / XDG_DEFAULTS[kind]) / "vllava"


def for_one_answer(settings: Settings, options: Mapping[str, object]) -> Settings:
    """Return the settings with some replaced that can change from answer to answer; raises UsageError."""
    for key in options:
        if key not in ANSWER_KEYS:
            raise UsageError(f"{key!r} cannot be set for one answer{closest(key, ANSWER_KEYS)}")
    return Settings(**_overlaid(asdict(settings), _checked(options, where="the options")))


def from_text(key: str, text: str) -> object:
    """Return what a user typed for a setting as a value of its type; `none` unsets what may be unset."""
    if text.lower() == "none" and type(None) in TYPES.get(key, ()):
        return None
    return _parsed(key, text, key)


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    # Greedy answers above mean that ways of sampling below are meant no more.
    dropped = ("top_p", "top_k") if above.get("temperature") == 0 else ()
    return {key: value for key, value in below.items() if key not in dropped} | dict(above)


def data_folder(name: Literal["configs", "examples"]) -> Path:
    """Return a folder that comes with vllava: inside the installed package, else at the top of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def presets_folder() -> Path:
    """Return the folder of the presets."""
    return data_folder("configs")


def preset_names(presets: Path) -> list[str]:
    """Return the names of the presets in a folder, sorted."""
    return sorted(path.stem for path in presets.glob("*.toml"))


def closest(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for a word that looks like one of the choices, else nothing."""
    spelled = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), spelled, n=1)
    return f"; did you mean {spelled[found[0]]!r}?" if found else ""


def preset_image_processor(model: str, presets: Path) -> dict[str, Any] | None:
    """Return the settings in the form of preprocessor_config.json that a preset holds; None if it holds none."""
    if model not in preset_names(presets):
        return None
    found = _read_toml(presets / f"{model}.toml").get(PRESET_TABLE)
    return found if isinstance(found, dict) else None


def _read_preset(model: str, presets: Path) -> dict[str, Any]:
    names = preset_names(presets)
    if model in names:
        return _read_config(presets / f"{model}.toml", is_preset=True)
    if os.path.isdir(os.path.expanduser(model)) or model.count("/") == 1:
        return {PRESET_KEY: model}
    raise CheckpointError(
        f"no model {model!r}{closest(model, names) or ':'} give a preset ({', '.join(names)}), a folder, or a hub id "
        f"such as LanguageBind/Video-LLaVA-7B-hf"
    )


def _read_config(path: Path, *, is_preset: bool = False) -> dict[str, Any]:
    values = _read_toml(path)
    preset_keys = (PRESET_KEY, PRESET_DTYPE, PRESET_TABLE) if is_preset else ()
    preset = {key: values.pop(key) for key in preset_keys if key in values}

    def place(key: str) -> str:
        lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
        number = next((number for number, line in lines if re.match(rf"\s*[\"']?{key}[\"']?\s*[=.]", line)), None)
        return f"{key} in {f'line {number} of ' if number else ''}{str(path)!r}"

    preset.pop(PRESET_TABLE, None)
    return _checked(values, place, where=repr(str(path))) | preset


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = parsed(tomllib.loads, decoded(path.read_bytes(), f"the config file {str(path)!r}"))
    except OSError as error:
        raise UsageError(f"cannot read the config file {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the config file {str(path)!r} is not TOML: {error}") from error
    return values


def unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a line about each variable that has our prefix and names no setting."""
    for name in environment:
        if name.startswith(ENVIRONMENT_PREFIX) and (key := _key_of(name)) not in SETTINGS:
            similar = difflib.get_close_matches(key, SETTINGS, n=1)
            hint = f"; did you mean {ENVIRONMENT_PREFIX}{similar[0].upper()}?" if similar else ""
            yield f"{name} in the environment is no setting and is ignored{hint}"


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that variables name; one that is empty is not set."""
    texts = {_key_of(name): text for name, text in environment.items() if name.startswith(ENVIRONMENT_PREFIX) and text}

    def variable(key: str) -> str:
        return ENVIRONMENT_PREFIX + key.upper()

    values = {key: _parsed(key, text, variable(key)) for key, text in texts.items() if key in SETTINGS}
    return _checked(values, variable)


def _key_of(variable: str) -> str:
    return variable.removeprefix(ENVIRONMENT_PREFIX).lower()


def _parsed(key: str, text: str, name: str) -> object:
    """Return a text as a value of a setting's type; `name` is what errors call the setting."""
    setting, types = SETTINGS.get(key), TYPES.get(key, (str,))
    if setting is None or setting.parse is not None:
        return text
    if bool in types:
        if text.lower() not in SWITCH_WORDS:
            raise UsageError(f"{name} is {text!r}: give 1 or 0")
        return SWITCH_WORDS[text.lower()]
    for number in (int, float):
        if number in types:
            try:
                return number(text)
            except ValueError as error:
                raise UsageError(f"{name} is {text!r}: give a number") from error
    return text


def _checked(values: Mapping[str, Any], name_of: Callable[[str], str] = str, *, where: str = "") -> dict[str, Any]:
    """Return values of settings as their types, or raise UsageError, which calls a setting by `name_of(key)`.

    `where` they stand, such as "the options", ends the message about a key that is unknown.
    """
    checked = {}
    for key, given in values.items():
        if key not in SETTINGS:
            raise UsageError(f"unknown setting {key!r} in {where}{HINTS.get(key) or closest(key, SETTINGS)}")
        name, setting = name_of(key), SETTINGS[key]
        if key == "at" and isinstance(given, list | tuple):
            given = ",".join(map(str, given))  # noqa: PLW2901
        try:
            value = setting.parse(given) if setting.parse and isinstance(given, str) else given
        except ValueError as error:
            raise UsageError(f"{name} is {given!r}: {setting.advice}") from error
        if problem := _type_problem(value, TYPES[key]) or (value is not None and _problem(value, setting)):
            raise UsageError(f"{name} is {problem}")
        checked[key] = value
    return checked


def _type_problem(value: Any, types: tuple[type, ...]) -> str | None:
    accepted = (*types, int) if float in types else types
    if isinstance(value, accepted) and (bool in types or not isinstance(value, bool)):
        return None
    if bool in types:
        return f"{value!r}: give true or false, without quotes"
    if str in types:
        return f"{value!r}: give a text in quotes"
    number = "a whole number" if int in types else "a number"
    return f"{value!r}: give {number}{' without quotes' if isinstance(value, str) else ''}"
