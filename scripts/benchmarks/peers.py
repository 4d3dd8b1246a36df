"""Installing the readers that ours is measured against, each in a folder of its own.

They stand beside the environment and not in it, so that nothing else is measured or tested with them at hand; and they
come without what they depend on, so that torch stays as it is. Versions are those of the extra `bench` in
`pyproject.toml`, pinned by `constraints.txt`.
"""

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.table import BUILD, ROOT, child_environment

FOLDER = BUILD / "peers"
PACKAGES = {"decord2": "decord2", "torchcodec": "torchcodec", "opencv": "opencv-python-headless"}


def install_peer(method: str) -> dict[str, str]:
    """Install a method's package unless it is there; return the environment in which it can be imported.

    Without a wheel for this machine the environment is returned as well: importing will then say what is missing.
    """
    environment = child_environment()
    if method not in PACKAGES:
        return environment
    folder = _installed(PACKAGES[method])
    environment["PYTHONPATH"] += f"{os.pathsep}{folder}"
    if method == "torchcodec":
        own = os.environ.get("LD_LIBRARY_PATH", "")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [*_ffmpeg_folders(), own]))
    return environment


def _installed(package: str) -> Path:
    constraints = ROOT / "constraints.txt"
    pin = next(line for line in constraints.read_text().splitlines() if line.startswith(f"{package}=="))
    folder = FOLDER / f"{pin}-{sys.implementation.cache_tag}"
    if folder.exists():
        return folder
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"installing {pin}", file=sys.stderr)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "-c", str(constraints)]
    with TemporaryDirectory(dir=FOLDER) as unfinished:
        command = [sys.executable, "-m", "pip", "install", *options, "--target", unfinished, _requirement(package)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{package} cannot be installed: {done.stderr.strip()}", file=sys.stderr)
        else:
            Path(unfinished).rename(folder)
            Path(unfinished).mkdir()  # for the context manager to remove
    return folder


def _requirement(package: str) -> str:
    """Return what the extra `bench` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements: list[str] = project["optional-dependencies"]["bench"]
    return next(text for text in requirements if text.startswith(package))


def _ffmpeg_folders() -> list[str]:
    """Return where torchcodec finds FFmpeg: it brings none, and shall use the very libraries that PyAV brings.

    Their names carry a hash; links of the usual names are made for them. Where PyAV's wheel has none such, as off
    Linux, torchcodec looks for the system's.
    """
    libraries = Path(sysconfig.get_path("platlib"), "av.libs")
    if not libraries.is_dir():
        return []
    key = hashlib.sha256(" ".join(sorted(os.listdir(libraries))).encode()).hexdigest()[:12]
    links = FOLDER / f"ffmpeg-{key}"
    links.mkdir(parents=True, exist_ok=True)
    for library in libraries.iterdir():
        match = re.fullmatch(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+(\.so\.\d+)[.\d]*", library.name)
        if match and not (link := links / "".join(match.groups())).exists():
            link.symlink_to(library)
    return [str(links), str(libraries)]
