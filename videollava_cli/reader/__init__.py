"""Reading media: what the user names becomes clips and images; knows files, nothing of models or prompts."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from videollava_cli.errors import MediaError
from videollava_cli.machine import num_processors
from videollava_cli.media import MediaKind, Medium
from videollava_cli.preprocessing import resize_frame, resize_image, to_model
from videollava_cli.reader.shrink import ReadingStopped, Shrink
from videollava_cli.reader.sources import to_file
from videollava_cli.reader.turns import Turns
from videollava_cli.sampling import Sampling, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from videollava_cli.preprocessing import PixelSettings, Resize

    FinalForm = Callable[[NDArray[np.uint8], PixelSettings, Resize], NDArray[np.uint8]]

__all__ = ["Found", "MediaReader", "ReadingStopped", "Turns"]

SIGNATURE_BYTES = 4096  # enough for every brand that an ISO file says it is compatible with
STILL_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF8",
    b"BM",
    b"II*\x00",  # TIFF, and MM below
    b"MM\x00*",
    b"\x00\x00\x01\x00",  # ICO
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
    b"P4\n",
    b"P5\n",
    b"P6\n",
)
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"}  # ISO/IEC 23008-12; AVIF files bear some too


@dataclass(frozen=True, slots=True)
class Found:
    """A medium that was found and identified by its content, and not yet read."""

    name: str
    path: Path
    form: Literal["still", "animation", "video"]

    @property
    def kind(self) -> MediaKind:
        """What a prompt calls it; an animation is a video."""
        return MediaKind.IMAGE if self.form == "still" else MediaKind.VIDEO


class MediaReader:
    """Find media, then read them; fetched files live until it is closed.

    Use it as a context manager.

    Args:
        offline: Fetch nothing.
        decode_threads: How many threads may decode a video; by default as many as this process may use processors.
        turns: Of processors, if other readers work at the same time and take them too.
    """

    def __init__(self, *, offline: bool = False, decode_threads: int | None = None, turns: Turns | None = None) -> None:
        self.offline = offline
        self.decode_threads = decode_threads or num_processors()
        self.turns = turns
        self._scratch: TemporaryDirectory[str] | None = None
        self._stopped = Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was fetched."""
        if self._scratch:
            self._scratch.cleanup()
            self._scratch = None

    def stop(self) -> None:
        """Let a `read` in another thread, and every later one, end within a frame by raising `ReadingStopped`."""
        self._stopped.set()

    def find(self, source: str) -> Found:
        """Find a medium and identify it, without decoding a frame.

        Args:
            source: A path, `http(s)://` URL, `hf://[datasets/]owner/repo/path`, or `-` for bytes on stdin.

        Raises:
            MediaError: If there is none, or it is neither a video nor an image.
        """
        path = to_file(source, self._scratch_folder, offline=self.offline)
        name = "stdin" if source == "-" else source
        if _looks_like_a_still(path, name):
            from videollava_cli.reader.stills import probe_still

            return Found(name, path, "animation" if probe_still(path, name) else "still")
        from videollava_cli.reader.video.containers import check_video

        check_video(path, name)
        return Found(name, path, "video")

    def read(
        self,
        found: Found,
        pixels: "PixelSettings",
        sampling: Sampling | None = None,
        *,
        final_form: "FinalForm" = to_model,
    ) -> Medium:
        """Read a medium: eight frames of a clip, or one picture, each shrunk as soon as it is there.

        Args:
            found: What to read.
            pixels: The checkpoint's image processor settings, and how to fit pictures.
            sampling: Which frames of a clip to take; uniformly from the whole clip by default.
            final_form: Brings a picture to the form it is kept in, by default the model's square. All must have the
                same shape, and they come in no particular order.

        Raises:
            MediaError: If it is damaged beyond use, or has no frame where one is wanted.
            ReadingStopped: If `stop` was called.
        """
        resize = resize_image if found.form == "still" else resize_frame
        shrink = Shrink(lambda rgb: final_form(rgb, pixels, resize), self._stopped)
        if found.form == "video":
            from videollava_cli.reader.video import read_clip
            from videollava_cli.reader.video.excerpts import VideoFile

            file = VideoFile(found.path, found.name, shrink, self.decode_threads, self.turns)
            return read_clip(file, sampling or Window())
        from videollava_cli.reader.stills import read_animation, read_image

        if found.form == "animation":
            return read_animation(found.path, found.name, sampling or Window(), shrink)
        return read_image(found.path, found.name, shrink)

    def _scratch_folder(self) -> Path:
        """Return the folder for what is fetched, made at the first call."""
        if not self._scratch:
            try:
                self._scratch = TemporaryDirectory(prefix="vllava-")
            except OSError as error:
                reason = error.strerror or error
                raise MediaError(f"cannot make a temporary folder: {reason}; point TMPDIR to one with space") from error
        return Path(self._scratch.name)


def _looks_like_a_still(path: Path, name: str) -> bool:
    """Return whether the first bytes are those of a format that Pillow reads.

    Raises:
        MediaError: If they are those of a HEIC picture, which neither Pillow nor PyAV puts together from its tiles.
    """
    with path.open("rb") as file:
        head = file.read(SIGNATURE_BYTES)
    brands = _iso_brands(head)
    if brands & HEIC_BRANDS and not brands & AVIF_BRANDS:
        raise MediaError(f"{name!r} is a HEIC picture, and HEIC stills are not supported: convert it to JPEG")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(STILL_SIGNATURES) or is_webp or bool(brands & AVIF_BRANDS)


def _iso_brands(head: bytes) -> set[bytes]:
    """Return the major and the compatible brands of an ISO file's `ftyp` box; none for another file."""
    if head[4:8] != b"ftyp":
        return set()
    end = int.from_bytes(head[:4], "big")
    compatible = head[16:end]  # behind size, "ftyp", major brand and its version
    return {head[8:12], *(compatible[i : i + 4] for i in range(0, len(compatible), 4))}
