"""Media made by the tests, with content that can be asserted: a frame's grey level tells its index."""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from PIL import Image

LEVEL_STEP = 4  # grey levels between neighbouring frames: more than a codec's error, 64 frames at most
WIDTH, HEIGHT = 64, 48
UPRIGHT_CORNERS = ("red", "green", "blue", "white")  # top left, top right, bottom left, bottom right
_encoded: dict[tuple, bytes] = {}
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


@dataclass(frozen=True)
class Recipe:
    """How a video is encoded."""

    codec: str = "libx264"
    rate: Fraction = Fraction(10)
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    rotation: int = 0


VP9 = Recipe("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
MJPEG = Recipe("mjpeg", pix_fmt="yuvj420p")  # every frame stands alone
MPEG4 = Recipe("mpeg4", options={"qscale": "2", "flags": "+qscale"})


def grey(index: int, width: int = WIDTH, height: int = HEIGHT):
    """Return a frame whose level tells its index."""
    return np.full((height, width, 3), index * LEVEL_STEP, np.uint8)


def index_of(frame) -> int:
    """Return the index that a grey frame tells."""
    return round(float(frame.mean()) / LEVEL_STEP)


def indices_of(clip) -> list[int]:
    """Return the index that each frame of a clip tells."""
    return [index_of(frame) for frame in clip.pixels]


def write_frames(path: Path, frames, recipe: Recipe = Recipe()) -> Path:
    """Write uint8 RGB frames, (H, W, 3) each, as a video whose container is named by the path's suffix."""
    with av.open(str(path), "w", options=recipe.container) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=recipe.options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = recipe.pix_fmt
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_video(path: Path, num_frames: int, recipe: Recipe = Recipe()) -> Path:
    """Write a video whose frames tell their index."""
    return _write_once(path, grey, num_frames, recipe)


def write_sound(path: Path, *, cover: bool = False) -> Path:
    """Write a sound file without a video, with cover art if asked for."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        art = _cover_stream(container) if cover else None
        if art:
            container.mux(art.encode(av.VideoFrame.from_ndarray(grey(9), format="rgb24").reformat(format="yuvj420p")))
            container.mux(art.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def _cover_stream(container):
    art = container.add_stream("mjpeg", rate=1)
    art.width, art.height, art.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
    art.disposition = av.stream.Disposition.attached_pic
    return art


def damage_packet(path: Path, number: int) -> Path:
    """Overwrite one packet of a video, so that it cannot be decoded."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        content, size = bytearray(path.read_bytes()), packets[number].size
    start = content.index(bytes(packets[number]), packets[number].pos)  # a container's own header may stand before
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    return path


def truncate(path: Path, share: float) -> Path:
    """Keep the first share of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def corners(width: int = WIDTH, height: int = HEIGHT):
    """Return an upright picture with a colour of its own in each quarter, see `UPRIGHT_CORNERS`."""
    picture = np.zeros((height, width, 3), np.uint8)
    middle, centre = height // 2, width // 2
    quarters = ((slice(0, middle), slice(0, centre)), (slice(0, middle), slice(centre, None)))
    quarters += ((slice(middle, None), slice(0, centre)), (slice(middle, None), slice(centre, None)))
    for quarter, color in zip(quarters, UPRIGHT_CORNERS, strict=True):
        picture[quarter] = COLORS[color]
    return picture


def corner_colors(picture) -> tuple[str, ...]:
    """Return the nearest colour's name in each quarter of a picture, in the order of `UPRIGHT_CORNERS`."""
    low, high = picture.shape[0] // 5, picture.shape[0] * 4 // 5
    spots = (picture[low, low], picture[low, high], picture[high, low], picture[high, high])
    return tuple(min(COLORS, key=lambda name: int(np.abs(spot.astype(int) - COLORS[name]).sum())) for spot in spots)


def write_image(path: Path, rgb, *, form: str | None = None, **options) -> Path:
    """Write uint8 RGB as a still picture, in the form that the path's suffix names unless told otherwise."""
    Image.fromarray(rgb).save(path, format=form, **options)
    return path


def write_animation(path: Path, num_frames: int, duration_ms=100, **options) -> Path:
    """Write a GIF, APNG, WebP or AVIF animation whose frames tell their index."""
    first, *rest = [Image.fromarray(grey(index)) for index in range(num_frames)]
    first.save(path, save_all=True, append_images=rest, duration=duration_ms, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a grey PNG that claims a size and holds nothing of it."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    empty = zlib.compress(b"")
    data = struct.pack(">I", len(empty)) + b"IDAT" + empty + struct.pack(">I", zlib.crc32(b"IDAT" + empty))
    return b"\x89PNG\r\n\x1a\n" + chunk + data


def drawn(index: int, width: int = 80, height: int = 64):
    """Return a frame with its index written in nine bits as dark and light squares, over a texture that moves.

    A codec can predict nothing of it from a wrong frame, and the index outlives any of them; 512 frames at most.
    """
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    column = np.clip((across - (width - height) // 2) * 3 // height, 0, 2)
    bits = index >> (down * 3 // height * 3 + column) & 1
    texture = (across * 5 + down * 3 + index * 11) % 40
    return np.repeat((60 + 110 * bits + texture).astype(np.uint8)[:, :, None], 3, axis=2)


def drawn_index(frame) -> int:
    """Return the index that is drawn into a square frame."""
    side = len(frame)
    middles = [(2 * place + 1) * side // 6 for place in range(3)]
    near = side // 12
    spots = [frame[y - near : y + near, x - near : x + near].mean() for y in middles for x in middles]
    return sum(int(spot > 134) << bit for bit, spot in enumerate(spots))


def drawn_indices(clip) -> list[int]:
    """Return the index that is drawn into each frame of a clip."""
    return [drawn_index(frame) for frame in clip.pixels]


def write_drawn(path: Path, num_frames: int, recipe: Recipe = Recipe()) -> Path:
    """Write a video with the index drawn into each frame."""
    return _write_once(path, drawn, num_frames, recipe)


def _write_once(path: Path, picture, num_frames: int, recipe: Recipe) -> Path:
    """Write a video of pictures of indices; the same one is encoded once a session."""
    key = (picture, num_frames, repr(recipe), path.suffix)
    if key in _encoded:
        path.write_bytes(_encoded[key])
    else:
        _encoded[key] = write_frames(path, [picture(index) for index in range(num_frames)], recipe).read_bytes()
    return path


def write_two_videos(path: Path) -> Path:
    """Write a file with two videos of twenty frames, those of the second drawn as 100 and more."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mjpeg", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 80, 64, "yuvj420p"
        for index in range(20):
            for first, stream in zip((0, 100), streams, strict=True):
                frame = av.VideoFrame.from_ndarray(drawn(first + index), format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def as_from_avi(packets, delay: int = 2):
    """Give packets the times that copies of AVI files have: in decoding order, shown a few frames later."""
    step = min(later.dts - packet.dts for packet, later in pairwise(packets))
    for number, packet in enumerate(packets):
        packet.dts = number * step
        packet.pts = packet.dts + delay * step
    return packets


def remux(
    source: Path, target: Path, change, container: dict[str, str] | None = None, *, extradata=None, flags=""
) -> Path:
    """Copy the packets that `change` makes of a video's packets into another container."""
    options = {"fflags": flags} if flags else {}
    with av.open(str(source), options=options) as old, av.open(str(target), "w", options=container or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        if extradata:
            stream.codec_context.extradata = extradata
        for packet in change([packet for packet in old.demux(video=0) if packet.size]):
            packet.stream = stream
            new.mux(packet)
    return target
