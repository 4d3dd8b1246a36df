"""Damage to the bytes of a file, the same for the same seed and number."""

import random
import zlib
from collections.abc import Callable
from typing import Literal

NUM_MUTATIONS = (1, 1, 1, 2, 2, 4, 8)  # of one input: more damage is refused sooner, so most have little
MAX_BLOCK = 256  # bytes that are removed, doubled or swapped at once
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x00FFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Mutator = Callable[[bytearray, random.Random], None]


def mutated(seeds: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Return the name of the file that was damaged, and the damaged bytes."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 (a test's, nobody's secret)
    name = list(seeds)[number % len(seeds)]
    content = bytearray(seeds[name])
    for _ in range(rng.choice(NUM_MUTATIONS)):
        if len(content) >= 8:
            rng.choice(MUTATORS)(content, rng)
    if content.startswith(PNG_SIGNATURE) and rng.random() < 0.5:
        _correct_checksums(content)  # so that the code behind the check is tested too
    return name, bytes(content)


def _flip_bits(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 16)):
        content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _overwrite_bytes(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    length = min(rng.randint(1, 16), len(content) - start)
    content[start : start + length] = rng.randbytes(length)


def _truncate(content: bytearray, rng: random.Random) -> None:
    """Cut the end off, seldom much of it, so that other damage is still seen."""
    del content[max(8, int(len(content) * (1 - rng.random() ** 4))) :]


def _remove_block(content: bytearray, rng: random.Random) -> None:
    start, end = _block(content, rng)
    del content[start:end]


def _double_block(content: bytearray, rng: random.Random) -> None:
    start, end = _block(content, rng)
    content[end:end] = content[start:end] * rng.choice((1, 1, 1, 8))


def _swap_blocks(content: bytearray, rng: random.Random) -> None:
    start, end = _block(content, rng)
    length = end - start
    other = rng.randrange(len(content) - length + 1)
    if other + length <= start or end <= other:
        content[start:end], content[other : other + length] = content[other : other + length], content[start:end]


def _set_field(content: bytearray, rng: random.Random) -> None:
    """Set a number of 16 or 32 bits, of either byte order, to an extreme or a large one."""
    length = rng.choice((2, 4, 4, 4))
    start = rng.randrange(len(content) - length + 1)
    value = rng.choice((*EXTREMES, rng.getrandbits(32), rng.randrange(1 << 16), 1 << rng.randrange(32)))
    content[start : start + length] = (value % (1 << 8 * length)).to_bytes(length, rng.choice(("big", "little")))


def _change_length(content: bytearray, rng: random.Random) -> None:
    """Change the length of a box or chunk: the 32 bits before a name of four letters (ISO, PNG), or behind (RIFF)."""
    names = [i for i in range(4, len(content) - 8) if (name := content[i : i + 4]).isalnum() and name.isascii()]
    if not names:
        return
    place = rng.choice(names)
    choices: tuple[tuple[int, Literal["big", "little"]], ...]
    choices = ((place - 4, "big"), (place - 4, "big"), (place + 4, "little"))
    start, order = rng.choice(choices)
    length = int.from_bytes(content[start : start + 4], order)
    changes = (length + rng.randint(-16, 16), length * 2, length // 2, *EXTREMES)
    content[start : start + 4] = (rng.choice(changes) % (1 << 32)).to_bytes(4, order)


MUTATORS: tuple[Mutator, ...] = (
    *(_flip_bits, _overwrite_bytes, _truncate, _remove_block, _double_block, _swap_blocks),
    *(_set_field, _set_field, _change_length),  # fields of a format are set more often
)


def _place(content: bytearray, rng: random.Random) -> int:
    # Every other time near the beginning, where headers are.
    return rng.randrange(min(len(content), 512)) if rng.random() < 0.5 else rng.randrange(len(content))


def _block(content: bytearray, rng: random.Random) -> tuple[int, int]:
    length = min(rng.randint(1, MAX_BLOCK), len(content) // 4)
    start = rng.randrange(len(content) - length + 1)
    return start, start + length


def _correct_checksums(content: bytearray) -> None:
    start = len(PNG_SIGNATURE)
    while start + 12 <= len(content):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if end + 4 > len(content):
            return
        content[end : end + 4] = zlib.crc32(content[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
