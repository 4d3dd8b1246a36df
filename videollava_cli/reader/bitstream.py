"""Which packets no wanted frame needs, by their first bytes: pictures not shown, and those on which no other builds.

FFmpeg's decoders can skip pictures on which no other builds (`skip_frame`), but skipped packets still occupy a decoder
thread, and the AV1 decoder ignores the option. So we drop such packets ourselves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    VideoPacket = Packet[VideoStream]
    IsDisposable = Callable[[bytes], bool]  # of what a packet holds

VP8_IS_SHOWN = 0x10  # in a packet's first byte (RFC 6386, 9.1)
START_CODE = b"\x00\x00\x01"  # in front of each unit of a stream that has no container, or of MPEG's
H264_PICTURES = range(1, 6)  # types of NAL units that hold slices (ITU-T H.264, table 7-1)
HEVC_PICTURES = range(32)  # likewise (ITU-T H.265, table 7-1)
HEVC_NON_REFERENCE = range(0, 15, 2)  # of these, those on which no picture of the same temporal layer builds
HEVC_PARAMETERS = 32
AV1_SEQUENCE, AV1_HEADER, AV1_FRAME = 1, 3, 6  # types of OBUs (AV1 specification, 6.2.2)
AV1_KEY_FRAME, AV1_SWITCH_FRAME = 0, 3
AV1_CHOOSE = 2  # a sequence that leaves a tool to its frames


def is_shown(packet: "VideoPacket", codec: str) -> bool:
    """Return whether a packet's frame is shown; VP8 keeps some as references only."""
    return codec != "vp8" or bool(memoryview(packet)[0] & VP8_IS_SHOWN)


def disposable_by(codec: str, extradata: bytes | None) -> "IsDisposable | None":
    """Return a check of a packet, whether no other picture builds on it; None where none is possible.

    `codec` is FFmpeg's name, `extradata` what the container keeps for the decoder.
    """
    extradata = extradata or b""
    if codec == "h264":
        is_avcc = extradata[:1] == b"\x01" and len(extradata) > 4
        return _by_units(1 + (extradata[4] & 3) if is_avcc else 0, _is_h264_reference)
    if codec == "hevc":
        is_hvcc = extradata[:1] == b"\x01" and len(extradata) > 21
        # A picture may be none that others of its layer build on, and yet one for a layer above.
        if (extradata[21] >> 3 & 7 if is_hvcc else _num_hevc_layers(extradata)) != 1:
            return None
        return _by_units(1 + (extradata[21] & 3) if is_hvcc else 0, _is_hevc_reference)
    sequence = _av1_sequence(extradata) if codec == "av1" else None
    return sequence.is_disposable if sequence else None


def _by_units(length_size: int, is_reference: "Callable[[bytes], bool | None]") -> "IsDisposable":
    def is_disposable(content: bytes) -> bool:
        found = [is_reference(unit) for unit in _nal_units(content, length_size)]  # None of one without a slice
        return False in found and True not in found

    return is_disposable


def _is_h264_reference(unit: bytes) -> bool | None:
    return unit[0] & 0x60 != 0 if unit[0] & 0x1F in H264_PICTURES else None


def _is_hevc_reference(unit: bytes) -> bool | None:
    kind = unit[0] >> 1 & 0x3F
    return kind not in HEVC_NON_REFERENCE if kind in HEVC_PICTURES else None


def _num_hevc_layers(parameter_sets: bytes) -> int:
    """Return the number of temporal layers in a video parameter set (ITU-T H.265, 7.3.2.1); 0 without one."""
    sets = (unit for unit in _nal_units(parameter_sets, 0) if unit[0] >> 1 == HEVC_PARAMETERS and len(unit) == 4)
    return next((1 + (unit[3] >> 1 & 7) for unit in sets), 0)


def _nal_units(content: bytes, length_size: int) -> Iterator[bytes]:
    """Yield the first bytes of the NAL units, which begin with their lengths, or without such with start codes."""
    place = 0
    while True:
        if length_size:
            start = place + length_size
            place = start + int.from_bytes(content[place:start], "big")
        else:
            start = place = content.find(START_CODE, place) + len(START_CODE)
            if start < len(START_CODE):
                return
        if start >= len(content):
            return
        yield content[start : start + 4]


class _Bits:
    """Bits of some bytes, read from the highest on; behind the end they are 0."""

    def __init__(self, content: bytes) -> None:
        self._content, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def read(self, number: int = 1) -> int:
        self._left -= number
        return (self._content >> self._left if self._left >= 0 else 0) & ((1 << number) - 1)


@dataclass(frozen=True, slots=True)
class _Av1Sequence:
    """The fields of a sequence header that are needed to find, in its frames' headers, the references they renew."""

    screen_content_tools: int
    integer_motion: int
    frame_id_bits: int
    order_hint_bits: int

    def is_disposable(self, content: bytes) -> bool:
        """Return whether a packet holds a single frame that is shown at once and renews no reference (5.9.2)."""
        frames = [frame for kind, frame in _obus(content) if kind in (AV1_HEADER, AV1_FRAME)]
        if len(frames) != 1:
            return False
        bits = _Bits(frames[0])
        shows_existing, kind, is_shown_now = bits.read(), bits.read(2), bits.read()
        if shows_existing or kind in (AV1_KEY_FRAME, AV1_SWITCH_FRAME) or not is_shown_now:
            return False
        resists_errors = bits.read()
        bits.read()  # disable_cdf_update
        has_tools = bits.read() if self.screen_content_tools == AV1_CHOOSE else self.screen_content_tools
        if has_tools and self.integer_motion == AV1_CHOOSE:
            bits.read()
        bits.read(self.frame_id_bits + 1 + self.order_hint_bits)  # with frame_size_override_flag
        if kind == 1 and not resists_errors:  # an inter frame
            bits.read(3)  # primary_ref_frame
        return bits.read(8) == 0


def _av1_sequence(av1c: bytes) -> _Av1Sequence | None:
    """Return the fields of the sequence header in an `av1C` box (5.5); None if it is missing, or of a rare kind."""
    header = next((content for kind, content in _obus(av1c[4:]) if kind == AV1_SEQUENCE), None)
    if header is None:
        return None
    bits = _Bits(header)
    if bits.read(5) & 1 or bits.read():  # a still picture, or times in the stream: more fields, here and in frames
        return None
    has_delays = bits.read()
    for _ in range(bits.read(5) + 1):  # operating points
        bits.read(12)
        if bits.read(5) > 7:
            bits.read()
        if has_delays and bits.read():
            bits.read(4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    bits.read(width_bits + height_bits)
    frame_id_bits = 0
    if bits.read():
        frame_id_bits = bits.read(4) + 2
        frame_id_bits += bits.read(3) + 1
    bits.read(3 + 4)  # tools of the sequence
    has_order = bits.read()
    bits.read(2 * has_order)
    tools = AV1_CHOOSE if bits.read() else bits.read()
    motion = AV1_CHOOSE if not tools or bits.read() else bits.read()
    return _Av1Sequence(tools, motion, frame_id_bits, bits.read(3) + 1 if has_order else 0)


def _obus(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and content of OBUs (5.3), as far as they are there."""
    place = 0
    while place < len(content):
        header = content[place]
        place += 2 if header & 4 else 1
        length = len(content) - place
        if header & 2:
            length, place = _leb128(content, place)
        yield header >> 3 & 15, content[place : place + min(length, 64)]
        place += length


def _leb128(content: bytes, place: int) -> tuple[int, int]:
    """Return a number of variable length (4.10.5), and the place behind it."""
    value = 0
    for count, byte in enumerate(content[place : place + 8]):
        value |= (byte & 0x7F) << 7 * count
        if not byte & 0x80:
            return value, place + count + 1
    return len(content), len(content)
