"""Small whole files of each container and picture format, the same bytes at every run."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 64, 48
NUM_FRAMES = 20
NUM_SAMPLES = 16_000  # of sound: two seconds

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Video:
    """How a seed is encoded; `container` and `options` are FFmpeg's."""

    codec: str
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    has_sound: bool = False
    pix_fmt: str = "yuv420p"


X264 = Video("libx264", {"x264-params": "keyint=8:bframes=2:threads=1:qp=24:subme=1:trellis=0"})
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
MPEG2 = Video("mpeg2video", {"g": "6", "bf": "2"})
FAST_VPX = {"deadline": "realtime", "cpu-used": "8", "g": "8"}
VIDEOS = {
    "mp4": Video("libx264", X264.options, has_sound=True),
    "fragmented.mp4": Video("libx264", X264.options, FRAGMENTS),
    "hevc.mp4": Video("libx265", {"x265-params": "log-level=none:keyint=8:pools=none:frame-threads=1"}),
    "mpeg4.mp4": Video("mpeg4", {"g": "6", "bf": "2"}),
    "mov": Video("mjpeg"),
    "mkv": X264,
    "webm": Video("libvpx-vp9", FAST_VPX),
    "vp8.webm": Video("libvpx", FAST_VPX),
    "ts": Video("libx264", X264.options, has_sound=True),
    "flv": X264,
    "avi": X264,
    "mjpeg.avi": Video("mjpeg"),
    "mpg": MPEG2,
    "ogg": Video("libvpx", FAST_VPX),
    "asf": Video("mpeg4", {"g": "6"}),
    "nut": X264,
    "mxf": MPEG2,
    "qtrle.mov": Video("qtrle", pix_fmt="argb"),
    "alpha.webm": Video("libvpx-vp9", FAST_VPX | {"auto-alt-ref": "0"}, pix_fmt="yuva420p"),
    "ivf": Video("libvpx-vp9", FAST_VPX),
    "h264": X264,
    "hevc": Video("libx265", {"x265-params": "log-level=none:keyint=8:pools=none:frame-threads=1"}),
    "m2v": MPEG2,
    "y4m": Video("rawvideo"),
}
FORMATS = {"mpg": "vob", "ts": "mpegts"}  # where FFmpeg's name is not the suffix


def make_seeds() -> dict[str, bytes]:
    """Return all seeds by name; the name's last part is the suffix that the file has."""
    seeds = {}
    with TemporaryDirectory() as folder:
        for name, video in VIDEOS.items():
            path = Path(folder, f"seed.{name}")
            _write_video(path, video)
            seeds[name] = path.read_bytes()
    return seeds | {name: write() for name, write in STILLS.items()}


def _write_video(path: Path, video: Video) -> None:
    suffix = path.suffix[1:]
    options = {"fflags": "+bitexact", **video.container}
    with av.open(str(path), "w", format=FORMATS.get(suffix), options=options) as container:
        stream = container.add_stream(video.codec, rate=25, options={"flags": "+bitexact", **video.options})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if video.codec == "mjpeg" else video.pix_fmt
        stream.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=8000) if video.has_sound else None
        for picture in _pictures(NUM_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        if sound:
            assert isinstance(sound, AudioStream)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, NUM_SAMPLES), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))


def _pictures(number: int) -> Iterator[Picture]:  # a block moves over a gradient: uint8 RGB (H, W, 3)
    for index in range(number):
        picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        picture[..., 0] = np.arange(WIDTH) * 3
        picture[..., 1] = np.arange(HEIGHT)[:, None] * 4
        picture[..., 2] = index * 8
        picture[8:24, index * 2 : index * 2 + 16] = 255
        yield picture


def _still(form: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(next(_pictures(1))).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _animation(form: str) -> bytes:
    first, *rest = [Image.fromarray(picture) for picture in _pictures(10)]
    buffer = io.BytesIO()
    first.save(buffer, form, save_all=True, append_images=rest, duration=100)
    return _without_times(buffer.getvalue()) if form == "AVIF" else buffer.getvalue()


def _without_times(content: bytes) -> bytes:
    cleared = bytearray(content)
    for kind in (b"mvhd", b"tkhd", b"mdhd"):
        start = content.index(kind) + 8  # behind its name, version 1 and flags: two times of 64 bits
        cleared[start : start + 16] = bytes(16)
    return bytes(cleared)


STILLS: dict[str, Callable[[], bytes]] = {
    "gif": partial(_animation, "GIF"),
    "animated.png": partial(_animation, "PNG"),
    "animated.webp": partial(_animation, "WEBP"),
    "animated.avif": partial(_animation, "AVIF"),
    "png": partial(_still, "PNG"),
    "palette.png": partial(_still, "PNG", "P"),
    "webp": partial(_still, "WEBP"),
    "jpg": partial(_still, "JPEG", quality=80),
    "progressive.jpg": partial(_still, "JPEG", "CMYK", progressive=1),
    "tif": partial(_still, "TIFF"),
    "lzw.tif": partial(_still, "TIFF", "L", compression="tiff_lzw"),
    "bmp": partial(_still, "BMP", "P"),
    "ico": partial(_still, "ICO"),
    "ppm": partial(_still, "PPM"),
    "avif": partial(_still, "AVIF"),
    "jp2": partial(_still, "JPEG2000"),
    "j2k": partial(_still, "JPEG2000", no_jp2=True),
    "big.tif": partial(_still, "TIFF", big_tiff=True),
    "deep.tif": partial(_still, "TIFF", "I", tiffinfo={340: 0, 341: 255}),
    "float.tif": partial(_still, "TIFF", "F", tiffinfo={340: 0.0, 341: 255.0}),
    "deep.png": partial(_still, "PNG", "I;16"),
    "dds": partial(_still, "DDS"),
    "icns": partial(_still, "ICNS"),
    "pcx": partial(_still, "PCX"),
    "qoi": partial(_still, "QOI"),
    "sgi": partial(_still, "SGI"),
}
