"""Which number format a model computes in, chosen by the machine and said to the user."""

import json
from pathlib import Path

import pytest
from container import enter_container
from in_process import vllava

from videollava_cli import load, machine
from videollava_cli.engine.checkpoint import ModelSize, TextShape, compute_dtype
from videollava_cli.machine import has_fast_bfloat16
from videollava_cli.settings import Settings, presets_folder, resolve

CLIP = Path(__file__).resolve().parents[1] / "examples" / "circle-moves-right.mp4"
GIB = 1 << 30
PROCESSORS = {
    "AVX-512 BF16": ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
    "AMX": ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
    "ARM's bf16": ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),
    "AVX-512 without it": ("model name\t: avx512_bf16\nflags\t\t: fpu avx512f avx512vnni\n", False),
    "ARM without it": ("Features\t: fp asimd asimdhp\n", False),
    "nothing that is said": ("", False),
}
FAST, SLOW = PROCESSORS["AMX"][0], PROCESSORS["ARM without it"][0]


@pytest.fixture
def computer(tmp_path, monkeypatch):
    """Give this process a computer of so much memory, in GiB, with this /proc/cpuinfo."""

    def plant(cpuinfo, gibibytes=1, **usage):
        enter_container(tmp_path, monkeypatch, limit=int(gibibytes * GIB), **usage)
        (tmp_path / "proc/cpuinfo").write_text(cpuinfo)

    return plant


def size_of(gibibytes):
    """Return the sizes of a model whose weights take so much in float16, and a question next to nothing."""
    shape = TextShape(num_layers=1, hidden_size=64, inner_size=64, num_key_value_heads=1, vocabulary_size=100)
    return ModelSize(int(gibibytes * GIB), shape, clip_tokens=1, context_length=16)


@pytest.mark.parametrize(("cpuinfo", "expected"), PROCESSORS.values(), ids=PROCESSORS)
def test_processor_made_for_bfloat16_is_known_by_its_flags(computer, cpuinfo, expected):
    computer(cpuinfo)

    assert has_fast_bfloat16() is expected


def test_system_that_shows_no_flags_counts_as_made_for_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)

    assert not has_fast_bfloat16()


@pytest.mark.parametrize(
    ("cpuinfo", "gibibytes", "settings", "expected"),
    [
        (FAST, 1, {}, "bfloat16"),
        (SLOW, 1, {}, "float32"),
        (SLOW, 0.27, {}, "bfloat16"),  # 0.28 in float32
        (SLOW, 0.29, {}, "float32"),
        (SLOW, 0.27, {"load_4bit": True}, "float32"),
        (FAST, 1, {"load_4bit": True}, "bfloat16"),
        (FAST, 1, {"dtype": "float32"}, "float32"),
        (SLOW, 1, {"dtype": "bfloat16"}, "bfloat16"),
        (FAST, 1, {"cpu_dtype": "float32"}, "float32"),
    ],
)
def test_type_on_a_cpu_is_what_the_processor_does_well_and_what_fits(computer, cpuinfo, gibibytes, settings, expected):
    computer(cpuinfo, gibibytes)

    assert compute_dtype(size_of(0.14), Settings(**settings), is_on_cpu=True) == expected


def test_type_does_not_depend_on_what_is_free_or_on_the_length_of_answers(computer):
    found = set()
    for used, length in ((0, 1), (GIB // 4, 1), (0, 4096)):
        computer(SLOW, 0.29, used=used)
        found.add(compute_dtype(size_of(0.14), Settings(max_new_tokens=length), is_on_cpu=True))

    assert found == {"float32"}


def test_type_is_fp16_on_a_gpu_and_fp32_where_the_size_is_not_known(computer):
    computer(SLOW, 0.1)

    assert compute_dtype(size_of(0.14), Settings(cpu_dtype="float32"), is_on_cpu=False) == "float16"
    assert compute_dtype(None, Settings(), is_on_cpu=True) == "float32"


def test_bundled_model_computes_in_float32_on_any_processor(computer):
    computer(FAST)

    assert load("tiny", device="cpu").compute_dtype == "float32"


def test_checkpoint_computes_in_bfloat16_where_the_processor_is_made_for_it(small, computer):
    computer(FAST)

    engine = load(str(small.checkpoint.folder), device="cpu")

    assert (engine.compute_dtype, str(engine.model.dtype)) == ("bfloat16", "torch.bfloat16")


def test_type_on_a_cpu_is_a_matter_of_presets_and_of_nobody_else(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("cpu_dtype = 'bfloat16'\n")

    done = vllava("ask", "-m", "tiny", CLIP, "Why?", "--config", config)

    assert resolve({"model": "tiny"}, presets=presets_folder()).cpu_dtype == "float32"
    assert (done.status, "cpu_dtype" in done.stderr) == (2, True)


@pytest.mark.parametrize(("dtype", "is_warned"), [("float16", True), ("bfloat16", False), ("auto", False)])
def test_float16_on_a_cpu_is_warned_about(dtype, is_warned):
    said = vllava("ask", "-m", "tiny", CLIP, "What shape is it?", "--dtype", dtype, "--device", "cpu").stderr

    assert ("float16 is very slow on a CPU: give --dtype bfloat16, or leave it out" in said) is is_warned


def resumed(out, **changes):
    """Answer a question about two clips, change the first line, and resume; return what is said and both lines."""
    ask = ("batch", "-m", "tiny", "--device", "cpu", "-q", "What shape is it?", "-o", out)
    vllava(*ask, CLIP)
    line = json.loads(out.read_text()) | changes
    out.write_text(json.dumps({key: value for key, value in line.items() if value is not None}) + "\n")
    said = vllava(*ask, CLIP, CLIP.with_name("ring-moves-up.mp4"), CLIP.with_name("triangle.jpg")).stderr
    return said, [json.loads(line) for line in out.read_text().splitlines()]


def test_resume_that_mixes_types_says_so_once(tmp_path):
    said, lines = resumed(tmp_path / "out.jsonl", compute_dtype="bfloat16")

    assert [line["compute_dtype"] for line in lines] == ["bfloat16", "float32", "float32"]
    assert said.count("earlier lines were computed in bfloat16, and these are in float32") == 1


@pytest.mark.parametrize("before", ["float32", None], ids=["the same type", "a line of 0.1.0"])
def test_resume_in_one_type_or_of_an_older_file_is_silent_and_answers_the_rest(tmp_path, before):
    said, lines = resumed(tmp_path / "out.jsonl", compute_dtype=before)

    assert [line.get("compute_dtype") for line in lines] == [before, "float32", "float32"]
    assert "computed in" not in said
