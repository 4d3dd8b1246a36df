"""Files that claim more than they hold, made of harmless ones."""

import struct
import zlib
from pathlib import Path

import av
from media_files import Recipe, grey, remux, write_frames, write_video

MILLIONS = 80_000_000
ZEROS = 4 << 30  # bytes
HUGE = 16_000  # pixels a side
MJPEG = Recipe("mjpeg", pix_fmt="yuvj420p")
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
ZERO_NAMES = ("z.mp4", "z.ts", "z.m2v", "z.obu", "z.h264", "z.m4v", "z.mkv", "z.avi", "z.vc1", "z.mjpeg")


def box(kind: bytes, body: bytes) -> bytes:
    """Return a box of an ISO media file."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def patched(path: Path, kind: bytes, offset: int, *numbers: int) -> Path:
    """Overwrite 32-bit numbers in the body of the first box of a kind."""
    content = bytearray(path.read_bytes())
    struct.pack_into(f">{len(numbers)}I", content, content.index(kind) + 4 + offset, *numbers)
    path.write_bytes(content)
    return path


def bomb_index(path: Path) -> Path:
    """Write an mp4 file of some hundred bytes, whose index claims 80 million samples."""
    write_video(path, 2)
    patched(path, b"stsz", 4, 1, MILLIONS)  # one byte each, so that no table is needed
    return patched(path, b"stts", 4, 1, MILLIONS)


def bomb_two_tracks(path: Path) -> Path:
    """Write an mp4 file that claims five million samples in each of two tracks."""
    write_video(path, 2)
    content = patched(path, b"stsz", 4, 1, MILLIONS // 16).read_bytes()
    track = content[(start := content.index(b"trak") - 4) : start + int.from_bytes(content[start : start + 4], "big")]
    place = content.index(b"moov") - 4
    header = box(b"moov", content[place + 8 :] + track)
    path.write_bytes(content[:place] + header + bytes(2 * MILLIONS // 16 // 8))
    return path


def bomb_fragment(path: Path) -> Path:
    """Write a fragmented mp4 file, one run of which claims 80 million samples."""
    write_video(path, 4, Recipe(container=FRAGMENTS))
    return patched(path, b"trun", 0, 1, MILLIONS)


def bomb_edits(path: Path) -> Path:
    """Write an mp4 file that shows its thousand frames ten thousand times."""
    write_frames(path, [grey(1)] * 1000, Recipe("mpeg4"))
    content = path.read_bytes()
    edits = box(b"edts", box(b"elst", struct.pack(">II", 0, 10_000) + struct.pack(">Iihh", 100_000, 0, 1, 0) * 10_000))
    grown = bytearray(content)
    track = content.index(b"trak") - 4
    end = track + int.from_bytes(content[track : track + 4], "big")
    grown[end:end] = edits
    for place in (track, content.index(b"moov") - 4):
        struct.pack_into(">I", grown, place, int.from_bytes(content[place : place + 4], "big") + len(edits))
    path.write_bytes(grown.replace(b"elst", b"free", 1))  # that of the muxer
    return path


def compressed(path: Path, unpacked: bytes) -> Path:
    """Write a QuickTime file with a compressed header."""
    packed = struct.pack(">I", len(unpacked)) + zlib.compress(unpacked)
    header = box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", packed))
    path.write_bytes(box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", header))
    return path


def bomb_compressed_index(path: Path) -> Path:
    """Write a QuickTime file whose compressed header claims 80 million samples."""
    content = bomb_index(path.with_suffix(".mp4")).read_bytes()
    return compressed(path, content[content.index(b"moov") - 4 :])


def bomb_compressed_zeros(path: Path) -> Path:
    """Write a QuickTime file whose header grows to 300 MB."""
    return compressed(path, box(b"moov", bytes(300_000_000)))


def zeros(path: Path) -> Path:
    """Write four sparse gigabytes."""
    with path.open("wb") as file:
        file.truncate(ZEROS)
    return path


def huge_header(path: Path) -> Path:
    """Write an AVI file whose header claims 16,000 x 16,000 pixels."""
    content = bytearray(write_video(path, 2, Recipe("rawvideo")).read_bytes())
    struct.pack_into("<II", content, content.index(b"strf") + 12, HUGE, HUGE)
    path.write_bytes(content)
    return path


def huge_photographs(path: Path) -> Path:
    """Write a video of nine JPEG pictures that claim 16,000 x 16,000 pixels each, in a container that tells 64 x 48."""
    content = write_video(path, 9, MJPEG).read_bytes()
    size = struct.pack(">HH", 48, 64)
    assert content.count(b"\x08" + size) == 9
    path.write_bytes(content.replace(b"\x08" + size, b"\x08" + struct.pack(">HH", HUGE, HUGE)))
    return path


def huge_vp8(path: Path) -> Path:
    """Write a VP8 video whose key frame claims 16,383 x 16,383 pixels, in a container that tells 64 x 48."""
    content = write_video(path, 9, Recipe("libvpx")).read_bytes()
    start = content.index(b"\x9d\x01\x2a") + 3
    path.write_bytes(content[:start] + struct.pack("<HH", 16383, 16383) + content[start + 4 :])
    return path


def huge_sequence(path: Path) -> Path:
    """Write an H.264 video whose parameters claim 16,000 x 16,000 pixels, in a container that tells 64 x 48."""
    plain = write_video(path.with_name(f"plain-{path.name}"), 9)
    side = HUGE // 16 - 1
    bits = "".join(map(golomb, (0, 0, 2, 1))) + "0" + golomb(side) * 2 + "11001"
    body = bits.ljust(-(-len(bits) // 8) * 8, "0")
    parameters = b"\x67\x42\xc0\x1e" + int(body, 2).to_bytes(len(body) // 8, "big")
    with av.open(str(plain)) as container:
        extra = container.streams.video[0].codec_context.extradata
    length = int.from_bytes(extra[6:8], "big")
    lying = extra[:6] + struct.pack(">H", len(parameters)) + parameters + extra[8 + length :]
    return remux(plain, path, list, extradata=lying)


def clip_of_8k(path: Path) -> Path:
    """Write nine frames of 7680 x 4320 pixels, all alike."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuvj420p"
        [packet] = stream.encode(av.VideoFrame(7680, 4320, "yuvj420p"))
        content = bytes(packet)
        for index in range(9):
            copy = av.Packet(content)
            copy.stream, copy.time_base, copy.pts, copy.dts = stream, packet.time_base, index, index
            copy.is_keyframe = True
            container.mux(copy)
    return path


def golomb(number: int) -> str:
    """Return the bits of a number in H.264's variable-length code, ue(v)."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits
