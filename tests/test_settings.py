"""Settings come from the nearest place that names them, and impossible ones are refused by name and value."""

import inspect
import re
from pathlib import Path

import pytest
from in_process import vllava

from videollava_cli.commands.ask import ask
from videollava_cli.errors import CheckpointError, UsageError
from videollava_cli.preprocessing import Fit
from videollava_cli.prompt import PromptStyle
from videollava_cli.sampling import Moments, Window
from videollava_cli.settings import (
    DEFAULTS,
    SETTINGS,
    TYPES,
    Settings,
    closest,
    for_one_answer,
    from_text,
    preset_names,
    presets_folder,
    resolve,
    settings_from,
    xdg_folder,
)

NOT_ASCENDING = "give seconds from the beginning of the clip, in ascending order"
TIME = "give a time from the beginning of the clip, such as 90, 1.5s or 1:02:03.5"
GREEDY = "give 0 for greedy answers, or more to sample"
AT_AND_START = "at names the frames to take, start and end a part to sample from: give one or the other"


@pytest.fixture
def presets(tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "7b.toml").write_text('checkpoint = "owner/seven"\n')
    (folder / "small.toml").write_text('checkpoint = "owner/small"\nload_4bit = true\nmax_new_tokens = 30\n')
    return folder


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_hold_when_nothing_is_said(presets):
    assert resolve({}, presets=presets) == Settings(model="7b", checkpoint="owner/seven")


def test_config_file_outranks_the_default(presets, config):
    settings = resolve({}, config_file=config("max_new_tokens = 20"), presets=presets)

    assert settings.max_new_tokens == 20


def test_preset_outranks_the_config_file(presets, config):
    settings = resolve({"model": "small"}, config_file=config("max_new_tokens = 20"), presets=presets)

    assert settings.max_new_tokens == 30


def test_environment_outranks_the_preset(presets, config):
    environment = {"VLLAVA_MAX_NEW_TOKENS": "40", "PATH": "/bin"}

    settings = resolve({"model": "small"}, config_file=config(""), environment=environment, presets=presets)

    assert settings.max_new_tokens == 40


def test_flag_outranks_everything(presets, config):
    flags = {"model": "small", "max_new_tokens": 50}
    environment = {"VLLAVA_MAX_NEW_TOKENS": "40"}

    settings = resolve(flags, config_file=config("max_new_tokens = 20"), environment=environment, presets=presets)

    assert settings.max_new_tokens == 50


def test_flag_that_was_not_given_outranks_nothing(presets):
    settings = resolve({"model": "small", "max_new_tokens": None}, presets=presets)

    assert settings.max_new_tokens == 30


def test_flag_can_switch_off_what_a_preset_switched_on(presets):
    settings = resolve({"model": "small", "load_4bit": False}, presets=presets)

    assert settings.load_4bit is False


@pytest.mark.parametrize(
    ("environment", "flags", "checkpoint"),
    [
        ({}, {}, "owner/small"),
        ({"VLLAVA_MODEL": "7b"}, {}, "owner/seven"),
        ({"VLLAVA_MODEL": "7b"}, {"model": "small"}, "owner/small"),
    ],
)
def test_preset_is_that_of_the_highest_place_that_names_a_model(presets, config, environment, flags, checkpoint):
    file = config('model = "small"')

    settings = resolve(flags, config_file=file, environment=environment, presets=presets)

    assert settings.checkpoint == checkpoint


def test_local_folder_is_its_own_checkpoint(presets, tmp_path):
    settings = resolve({"model": str(tmp_path)}, presets=presets)

    assert (settings.model, settings.checkpoint) == (str(tmp_path), str(tmp_path))


def test_hub_id_is_its_own_checkpoint(presets):
    assert resolve({"model": "owner/name"}, presets=presets).checkpoint == "owner/name"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smal", "no model 'smal'; did you mean 'small'? give a preset (7b, small), a folder, or a hub id"),
        ("~nobody-here/a/b", "no model '~nobody-here/a/b': give a preset (7b, small), a folder, or a hub id"),
        ("x" * 300, f"no model '{'x' * 300}': give a preset (7b, small), a folder, or a hub id"),
        ("/no/such/folder", "no model '/no/such/folder': give a preset (7b, small), a folder, or a hub id"),
    ],
)
def test_model_that_is_nothing_known_is_refused_with_the_presets_that_there_are(presets, model, message):
    with pytest.raises(CheckpointError) as refusal:
        resolve({"model": model}, presets=presets)

    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("No", False), ("off", False)],
)
def test_environment_switches_understand_the_usual_words(presets, text, value):
    settings = resolve({}, environment={"VLLAVA_OFFLINE": text}, presets=presets)

    assert settings.offline is value


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("VLLAVA_SEED", "7", "seed", 7),
        ("VLLAVA_START", "1.5", "start", 1.5),
        ("VLLAVA_TEMPERATURE", "1", "temperature", 1.0),
        ("VLLAVA_SYSTEM", "12", "system", "12"),
        ("VLLAVA_DEVICE", "cuda:1", "device", "cuda:1"),
        ("VLLAVA_FIT", "pad", "fit", "pad"),
        ("VLLAVA_CACHE", "off", "cache", False),
        ("VLLAVA_AT", "1,2,3,4,5,6,7,8", "at", "1,2,3,4,5,6,7,8"),
        ("VLLAVA_DECODE_THREADS", "3", "decode_threads", 3),
    ],
)
def test_environment_values_take_the_type_of_their_setting(presets, name, text, key, value):
    found = getattr(resolve({}, environment={name: text}, presets=presets), key)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("VLLAVA_OFFLINE", "perhaps", "VLLAVA_OFFLINE is 'perhaps': give 1 or 0"),
        ("VLLAVA_SEED", "one", "VLLAVA_SEED is 'one': give a number"),
        ("VLLAVA_END", "soon", f"VLLAVA_END is 'soon': {TIME}"),
        ("VLLAVA_START", "-1", f"VLLAVA_START is -1.0: {TIME}"),
        ("VLLAVA_TOP_P", "1.5", "VLLAVA_TOP_P is 1.5: give more than 0 and at most 1"),
        ("VLLAVA_FIT", "squeeze", "VLLAVA_FIT is 'squeeze': choose from crop, pad, stretch"),
    ],
)
def test_environment_values_that_mean_nothing_are_refused_by_name(presets, name, text, message):
    with pytest.raises(UsageError) as refusal:
        resolve({}, environment={name: text}, presets=presets)

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_new_token = 20", "unknown setting 'max_new_token' in {file}; did you mean 'max_new_tokens'?"),
        ("colour = 1", "unknown setting 'colour' in {file}"),
        ('max_new_tokens = "20"', "max_new_tokens in line 1 of {file} is '20': give a whole number without quotes"),
        ("max_new_tokens = true", "max_new_tokens in line 1 of {file} is True: give a whole number"),
        ("seed = 1.5", "seed in line 1 of {file} is 1.5: give a whole number"),
        ("\noffline = 1", "offline in line 2 of {file} is 1: give true or false, without quotes"),
        ('offline = "true"', "offline in line 1 of {file} is 'true': give true or false, without quotes"),
        ('top_p = "a"', "top_p in line 1 of {file} is 'a': give a number without quotes"),
        ("[model]\nname = 1", "model in {file} is {{'name': 1}}: give a text in quotes"),
        ("# warm\n\n  temperature = -1", f"temperature in line 3 of {{file}} is -1: {GREEDY}"),
        ('"top_k" = 0', "top_k in line 1 of {file} is 0: give at least 1"),
        ("top_p = nan", "top_p in line 1 of {file} is nan: give a finite number"),
        ('start = "noon"', f"start in line 1 of {{file}} is 'noon': {TIME}"),
        ('checkpoint = "a/b"', "unknown setting 'checkpoint' in {file}; say model = 'FOLDER or hub id'"),
    ],
)
def test_config_file_with_a_wrong_key_or_type_is_refused_by_name_and_value(presets, config, text, message):
    file = config(text)

    with pytest.raises(UsageError) as refusal:
        resolve({}, config_file=file, presets=presets)

    assert str(refusal.value) == message.format(file=repr(str(file)))


def test_config_file_that_cannot_be_looked_for_is_told_in_one_line(tmp_path):
    done = vllava("frames", "-m", "tiny", "nowhere.mp4", XDG_CONFIG_HOME=f"/{'x' * 300}")

    assert (done.status, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith("config.toml': File name too long\n")


def test_empty_variable_is_not_set(presets):
    environment = {"VLLAVA_MODEL": "", "VLLAVA_END": "", "VLLAVA_OFFLINE": "", "VLLAVA_SYSTEM": ""}

    assert resolve({"model": "tiny"}, environment=environment, presets=presets_folder()) == Settings(
        model="tiny", checkpoint="bundled:tiny", cpu_dtype="float32"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [("VLLAVA_SED", "; did you mean VLLAVA_SEED?"), ("VLLAVA_CHECKPOINT", ""), ("VLLAVA_", ""), ("vllava_seed", None)],
)
def test_unknown_variable_is_a_warning(name, hint):
    done = vllava("frames", "-m", "tiny", "nowhere.mp4", **{name: "1"})

    warning = f"vllava: note: {name} in the environment is no setting and is ignored{hint}\n"
    assert (done.status, done.stderr.startswith(warning)) == (3, hint is not None)
    assert "note" not in vllava("frames", "-m", "tiny", "nowhere.mp4", "--quiet", **{name: "1"}).stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("90", 90), ("90s", 90), ("1.5", 1.5), ("1:00", 60), ("1:02:03.5", 3723.5), ("0:07.25", 7.25)],
        *[("75:00", 4500), ("1m30s", 90), ("2h", 7200), ("1h0.5s", 3600.5), ("3S", 3)],
    ],
)
def test_times_are_written_as_people_write_them(presets, config, text, seconds):
    for settings in (
        resolve({"start": text, "end": "99h"}, presets=presets),
        resolve({}, config_file=config(f'start = "{text}"\nend = "99h"'), presets=presets),
        resolve({}, environment={"VLLAVA_START": text, "VLLAVA_END": "99h"}, presets=presets),
        for_one_answer(Settings(), {"start": from_text("start", text), "end": 356400}),
        resolve({"at": ",".join([text] * 8), "start": None}, presets=presets),
    ):
        assert settings.at or settings.end == 356400
        assert seconds in (settings.start, *getattr(settings.sampling, "seconds", ()))


@pytest.mark.parametrize("text", ["", "1:75", "1:2:3:4", "s", "1s2m", "1:", ":30", "-1:00", "1;30", "half"])
def test_text_that_is_no_time_is_refused(presets, text):
    with pytest.raises(UsageError, match=re.escape(TIME)):
        resolve({"start": text}, presets=presets)


@pytest.mark.parametrize("word", ["7B", "7b-4BIT", "TINY", "tinny"])
def test_model_in_other_letters_is_suggested(word):
    with pytest.raises(CheckpointError, match=f"no model '{word}'; did you mean '(7b|7b-4bit|tiny)'"):
        resolve({"model": word}, presets=presets_folder())


def test_whole_number_serves_where_a_fraction_may_stand(presets, config):
    assert resolve({}, config_file=config("temperature = 1"), presets=presets).temperature == 1


def test_config_file_that_is_no_toml_is_refused_with_the_place(presets, config):
    with pytest.raises(UsageError, match=r"config\.toml' is not TOML: .*line 1"):
        resolve({}, config_file=config("model 7b"), presets=presets)


def test_config_file_that_is_no_text_is_refused(presets, tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(b"\x89\xff")

    with pytest.raises(UsageError, match=r"config\.toml' is not UTF-8 at byte 1: save it as UTF-8"):
        resolve({}, config_file=file, presets=presets)


def test_config_file_that_is_not_there_is_refused(presets):
    with pytest.raises(UsageError, match=r"cannot read the config file 'no\.toml': No such file or directory"):
        resolve({}, config_file=Path("no.toml"), presets=presets)


def test_unknown_option_from_python_is_refused_with_a_suggestion(presets):
    with pytest.raises(UsageError, match="unknown setting 'load4bit' in the options; did you mean 'load_4bit'"):
        resolve({"load4bit": True}, presets=presets)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: give at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1: give 0 for greedy answers, or more to sample"),
        ({"temperature": float("nan")}, "temperature is nan: give a finite number"),
        ({"temperature": float("inf")}, "temperature is inf: give a finite number"),
        ({"temperature": 10**400}, f"temperature is {10**400}: give a finite number"),
        ({"top_k": 10**400, "temperature": 1.0}, f"top_k is {10**400}: give a finite number"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0: give more than 0 and at most 1"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p is 1.1: give more than 0 and at most 1"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0: give at least 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0: give more than 0 (1 is none)"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan: give a finite number"),
        ({"seed": -1}, "seed is -1: give 0 or more, below 2**63"),
        ({"start": -1.0}, f"start is -1.0: {TIME}"),
        ({"start": float("nan")}, "start is nan: give a finite number"),
        ({"end": 0.0}, "end is 0.0: give seconds after the start, 0"),
        ({"start": 2.0, "end": 2.0}, "end is 2.0: give seconds after the start, 2.0"),
        ({"decode_threads": 0}, "decode_threads is 0: give at least 1"),
        ({"at": "1,2,3,4,5,6,7"}, "at has 7 times: give 8, one for each frame"),
        ({"at": "1"}, "at has 1 time: give 8, one for each frame"),
        ({"at": "1,2,3,4,5,6,7,x"}, "at is '1,2,3,4,5,6,7,x': give 8 times in seconds, with commas between them"),
        ({"at": ""}, "at is '': give 8 times in seconds, with commas between them"),
        ({"at": "8,7,6,5,4,3,2,1"}, f"at is '8,7,6,5,4,3,2,1': {NOT_ASCENDING}"),
        ({"at": "-1,2,3,4,5,6,7,8"}, f"at is '-1,2,3,4,5,6,7,8': {NOT_ASCENDING}"),
        ({"at": "1,2,3,4,5,6,7,inf"}, f"at is '1,2,3,4,5,6,7,inf': {NOT_ASCENDING}"),
        ({"at": "nan,2,3,4,5,6,7,8"}, f"at is 'nan,2,3,4,5,6,7,8': {NOT_ASCENDING}"),
        ({"at": "1,2,3,4,5,6,7,8", "start": 1.0}, AT_AND_START),
        ({"at": "1,2,3,4,5,6,7,8", "end": 9.0}, AT_AND_START),
        ({"dtype": "int4"}, "dtype is 'int4': choose from auto, float16, bfloat16, float32"),
        ({"prompt_style": "loose"}, "prompt_style is 'loose': choose from newline, joined"),
        ({"fit": "squeeze"}, "fit is 'squeeze': choose from crop, pad, stretch"),
        (
            {"attn_implementation": "flash"},
            "attn_implementation is 'flash': choose from eager, sdpa, flash_attention_2",
        ),
        ({"load_4bit": True, "load_8bit": True}, "load_4bit and load_8bit exclude each other: give one of them"),
    ],
)
def test_impossible_values_are_refused_by_name_and_value(values, message):
    with pytest.raises(UsageError) as refusal:
        Settings(**values)

    assert str(refusal.value) == message


@pytest.mark.parametrize("values", [{"top_p": 0.9}, {"top_k": 5}, {"top_p": 0.9, "temperature": 0.0}])
def test_choice_among_sampled_tokens_without_a_temperature_is_refused(values):
    with pytest.raises(UsageError, match=r"answers are greedy: add --temperature 0\.7, say"):
        Settings(**values)


@pytest.mark.parametrize("device", ["cpu", "mps", "mps:0"])
def test_flash_attention_without_a_cuda_gpu_is_refused(device):
    with pytest.raises(UsageError, match=f"needs a CUDA GPU, and the device is '{device}': leave --flash-attn out"):
        Settings(attn_implementation="flash_attention_2", device=device)


def test_flash_attention_with_float32_is_refused():
    with pytest.raises(UsageError, match="dtype is 'float32': give --dtype float16"):
        Settings(attn_implementation="flash_attention_2", dtype="float32")


def test_settings_are_checked_after_they_are_put_together(presets):
    with pytest.raises(UsageError, match="load_4bit and load_8bit exclude each other"):
        resolve({"model": "small", "load_8bit": True}, presets=presets)


def test_choices_of_prompt_style_are_the_styles_that_conversations_know():
    assert SETTINGS["prompt_style"].choices == tuple(PromptStyle)


def test_choices_of_fit_are_those_that_preprocessing_knows():
    assert SETTINGS["fit"].choices == tuple(Fit)


@pytest.mark.parametrize("name", preset_names(presets_folder()))
def test_preset_that_comes_with_the_tool_resolves_to_a_checkpoint(name):
    settings = resolve({"model": name}, presets=presets_folder())

    assert settings.checkpoint


def test_presets_of_the_tool_are_the_documented_ones():
    assert preset_names(presets_folder()) == ["7b", "7b-4bit", "tiny"]


@pytest.mark.parametrize(("word", "hint"), [("tinny", "; did you mean 'tiny'?"), ("xyz", "")])
def test_closest_suggests_only_what_looks_alike(word, hint):
    assert closest(word, ["tiny", "7b"]) == hint


def test_greedy_on_the_command_line_outranks_sampling_in_the_config_file(presets, config):
    config_file = config("temperature = 0.7\ntop_p = 0.9\ntop_k = 40")

    settings = resolve({"temperature": 0.0}, config_file=config_file, presets=presets)

    assert (settings.temperature, settings.top_p, settings.top_k) == (0.0, None, None)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("flash_attn = true", "attn_implementation = 'flash_attention_2'"),
        ("checkpoint = 'x'", "model = 'FOLDER or hub id'"),
    ],
)
def test_name_of_something_else_in_the_config_file_is_refused_with_the_right_one(presets, config, text, hint):
    with pytest.raises(UsageError, match=hint):
        resolve({}, config_file=config(text), presets=presets)


@pytest.mark.parametrize(
    ("values", "sampling"),
    [
        ({}, Window()),
        ({"start": 1.0, "end": 2.0}, Window(1.0, 2.0)),
        ({"at": "0, .5,1,1,2,3.25,4e0,5"}, Moments((0.0, 0.5, 1.0, 1.0, 2.0, 3.25, 4.0, 5.0))),
    ],
)
def test_frames_are_sampled_as_the_settings_say(values, sampling):
    assert Settings(**values).sampling == sampling


def test_every_default_of_the_table_has_the_type_of_its_setting():
    assert {key for key, default in DEFAULTS.items() if type(default) not in TYPES[key]} == set()


def test_every_setting_but_those_of_presets_and_chat_is_an_option_of_ask():
    elsewhere = {"checkpoint", "cpu_dtype"} | {key for key, row in SETTINGS.items() if row.scope == "chat"}

    assert set(DEFAULTS) - set(inspect.signature(ask).parameters) == elsewhere


@pytest.mark.parametrize(("kind", "default"), [("CONFIG", ".config"), ("CACHE", ".cache"), ("STATE", ".local/state")])
@pytest.mark.parametrize("value", [None, "", "relative", "./relative"])
def test_folder_is_in_the_home_folder_unless_xdg_names_an_absolute_one(kind, default, value):
    environment = {} if value is None else {f"XDG_{kind}_HOME": value}

    assert xdg_folder(kind, environment) == Path.home() / default / "vllava"
    assert xdg_folder(kind, {f"XDG_{kind}_HOME": "/absolute"}) == Path("/absolute/vllava")


def test_config_file_below_a_relative_xdg_folder_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "here" / "vllava").mkdir(parents=True)
    (tmp_path / "here" / "vllava" / "config.toml").write_text("max_new_tokens = 20")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    assert settings_from({}).max_new_tokens == 512
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "here"))
    assert settings_from({}).max_new_tokens == 20


@pytest.mark.parametrize("written", ["[0, 1, 1.5, 2, 2, 3, 60, 90]", '["0", 1, 1.5, "2s", 2, 3, "1:00", "1:30"]'])
def test_moments_in_a_config_file_may_be_a_list(presets, config, written):
    settings = resolve({}, config_file=config(f"at = {written}"), presets=presets)

    assert settings.sampling.seconds == (0, 1, 1.5, 2, 2, 3, 60, 90)
