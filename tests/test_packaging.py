"""The wheel: what is inside, and that it finds its own parts away from the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "videollava_cli"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel far from the checkout, as pip does."""
    folder = tmp_path_factory.mktemp("site-packages")
    wheel.extractall(folder)
    return folder


def run_installed(installed: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    environment = {"PYTHONPATH": str(installed), "PATH": ""}
    done = subprocess.run(command, check=True, cwd=installed, env=environment, capture_output=True, text=True)
    return done.stdout.strip()


def test_wheel_holds_every_module_preset_and_type_marker(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    presets = {f"videollava_cli/configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")}

    names = set(wheel.namelist())

    assert presets
    assert modules | presets | {"videollava_cli/py.typed"} <= names


def test_wheel_holds_the_examples_and_says_where(wheel: zipfile.ZipFile, installed: Path) -> None:
    examples = {f"videollava_cli/examples/{path.name}" for path in (ROOT / "examples").iterdir()}

    assert examples <= set(wheel.namelist())
    assert "videollava_cli/examples/circle-moves-right.mp4" in examples
    said = run_installed(installed, "-m", "videollava_cli", "examples")
    assert said == str(installed.resolve() / "videollava_cli" / "examples")


def test_wheel_holds_the_bundled_model_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    bundled = [path for path in (PACKAGE / "bundled").rglob("*") if path.is_file()]
    assert bundled

    different = [path for path in bundled if wheel.read(str(path.relative_to(ROOT))) != path.read_bytes()]

    assert not different


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert {top.rpartition(".")[2] for top in tops} == {"videollava_cli", "dist-info", "data"}
    data = [name for name in wheel.namelist() if name.split("/")[0].endswith(".data")]
    assert [name.partition("/")[2] for name in data] == ["data/share/man/man1/vllava.1"]
    assert not [name for name in wheel.namelist() if name.endswith((".pyc", ".part"))]


def test_installed_wheel_finds_its_presets_and_bundled_model(installed: Path) -> None:
    program = (
        "from videollava_cli.engine.checkpoint import BUNDLED_FOLDER;"
        "from videollava_cli.settings import preset_names, presets_folder;"
        "print(BUNDLED_FOLDER, *preset_names(presets_folder()))"
    )

    said = run_installed(installed, "-c", program)

    assert said == f"{installed / 'videollava_cli' / 'bundled'} 7b 7b-4bit tiny"


def test_installed_wheel_runs_away_from_the_checkout(installed: Path) -> None:
    said = run_installed(installed, "-m", "videollava_cli", "--version")

    assert said.startswith("vllava ")
