"""The nouns of a check-up: what was found on this machine, and what is to be said of it; knows no way to find out."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from videollava_cli.engine.checkpoint import Need


class Mark(StrEnum):
    """What a finding means to the default command: nothing against it, worth knowing, or it would fail."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; a problem says what to do next."""

    section: str
    subject: str
    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class Software:
    """Python and the packages; a version is None where a package is not installed.

    `problems` are those of packages that vllava cannot do without.
    """

    python: str
    system: str
    versions: Mapping[str, str | None]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Computer:
    """Processors this process may use, and memory in bytes; None where the system does not tell."""

    num_processors: int
    memory_bytes: int | None
    available_bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that torch can use: memory in bytes, and the compute capability of one of NVIDIA's."""

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Graphics:
    """GPUs as torch sees them, and as NVIDIA's driver does; `torch_cuda` is None for a torch without CUDA.

    `problem` is what torch said when it was asked about a GPU that it counts.
    """

    gpus: tuple[Gpu, ...] = ()
    torch_cuda: str | None = None
    driver: str | None = None
    cards: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """Whether something really ran, and why not."""

    is_usable: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """PyAV, its FFmpeg, and whether FFmpeg can decode what people have."""

    pyav: str
    ffmpeg: str
    decoders: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Disk:
    """The folder that checkpoints are fetched to, and the bytes of its disk."""

    folder: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The folder of quantized weights that are kept, how many there are, how many of no use, and the bytes of all."""

    folder: str
    number: int
    num_unusable: int
    num_bytes: int


class State(StrEnum):
    """How much of a checkpoint is on this disk; a broken one is there, and no use."""

    WHOLE = "whole"
    PARTLY = "partly"
    ABSENT = "absent"
    BROKEN = "broken"


class Fit(StrEnum):
    """Whether a model has room: on the device, spread over several GPUs, with 4-bit weights, or not at all.

    Unknown is the fit of a checkpoint whose size, or of a device whose memory nobody tells.
    """

    FITS = "fits"
    SPREAD = "fits_spread"
    WITH_4BIT = "fits_with_load_4bit"
    NOT = "does_not_fit"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint: what is there of it, what is missing, and whether it has room.

    Attributes:
        name: What -m takes.
        checkpoint: Hub id, folder or `bundled:` name.
        load_4bit: Whether it is to run with 4-bit weights.
        state: How much of it is on this disk.
        folder: Where, if it is.
        missing: Files that are not there, as far as is known.
        missing_bytes: What is to be downloaded; None if nobody tells.
        reason: Why it is broken.
        fit: Whether it has room on the device.
        runs_offloaded: Whether it would run, slowly, with a part in the computer's memory.
        need: What it takes on the device, None if that is unknown.
        need_4bit: The same with 4-bit weights.
        free_bytes: What is free on the device, or on all that it may be spread over.
    """

    name: str
    checkpoint: str
    load_4bit: bool
    state: State
    folder: str | None
    missing: tuple[str, ...]
    missing_bytes: int | None
    reason: str | None
    fit: Fit
    runs_offloaded: bool
    need: Need | None
    need_4bit: Need | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the bundled model answered about a clip drawn for it, what is true, and the seconds from load to answer."""

    question: str
    expected: str
    answer: str | None
    seconds: float
    reason: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether the answer is the true one."""
        return self.answer == self.expected


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found. What needs the libraries is None or empty where they are not usable."""

    software: Software
    computer: Computer
    disk: Disk
    kept: Kept | None = None
    device: str | None = None
    dtype: str | None = None
    settings_problem: str | None = None
    graphics: Graphics = Graphics()
    four_bit: Trial | None = None
    flash_attention: Trial | None = None
    video: Video | None = None
    models: tuple[Model, ...] = ()
    self_test: SelfTest | None = None
