"""What there is to say of each model: its files, and whether it has room; a pure function of facts and settings."""

from collections.abc import Iterator

from videollava_cli.doctor.facts import Disk, Facts, Finding, Fit, Kept, Mark, Model, State
from videollava_cli.doctor.sizes import gigabytes, memory_size
from videollava_cli.engine.checkpoint import Need
from videollava_cli.settings import Settings

FILES, ROOM = "Checkpoints", "Room for a question about a clip"


def checkpoint_findings(facts: Facts, settings: Settings) -> Iterator[Finding]:
    """Yield where checkpoints are kept, and what is there of each."""
    disk = facts.disk
    yield Finding(FILES, "cache", Mark.OK, f"{disk.folder}, {gigabytes(disk.free_bytes)} free")
    if facts.kept:
        yield _kept_in_words(facts.kept)
    for model in facts.models:
        mark, text = _files_in_words(model, disk, is_offline=settings.offline)
        if mark is Mark.PROBLEM and model.name != settings.model:
            mark = Mark.NOTE
        yield Finding(FILES, model.name, mark, text)


def _kept_in_words(kept: Kept) -> Finding:
    if not kept.number:
        return Finding(FILES, "4-bit kept", Mark.OK, f"nothing yet, in {kept.folder}")
    text = f"{kept.number} in {kept.folder}, {gigabytes(kept.num_bytes)}"
    if not kept.num_unusable:
        return Finding(FILES, "4-bit kept", Mark.OK, text)
    unusable = f"{kept.num_unusable} unfinished or damaged: see vllava cache"
    return Finding(FILES, "4-bit kept", Mark.NOTE, f"{text}, {unusable}")


def _files_in_words(model: Model, disk: Disk, *, is_offline: bool) -> tuple[Mark, str]:
    if model.state is State.BROKEN:
        return Mark.PROBLEM, f"no use: {model.reason}"
    if model.state is State.WHOLE:
        return Mark.OK, f"there: {model.folder}"
    there = "not there"
    if model.state is State.PARTLY:
        there = f"there in part, without {', '.join(model.missing)}"
    if is_offline:
        return Mark.PROBLEM, f"{there}, and offline none is downloaded: run once without --offline, or try -m tiny"
    if model.missing_bytes is None:
        return Mark.NOTE, f"{there}: it would be downloaded, and its size is not known here"
    amount = gigabytes(model.missing_bytes)
    if model.missing_bytes > disk.free_bytes:
        return Mark.PROBLEM, (
            f"{there}, and {amount} to download are more than the {gigabytes(disk.free_bytes)} that are free on the "
            "disk: make room, or set HF_HOME to a folder on a larger one"
        )
    return Mark.NOTE, f"{there}: {amount} would be downloaded, and the disk has room; the network was not tried"


def room_findings(facts: Facts, settings: Settings) -> Iterator[Finding]:
    """Yield for each model whether it has room, with the arithmetic."""
    for model in facts.models:
        mark, text = _room_in_words(model, facts)
        if mark is Mark.PROBLEM and model.name != settings.model:
            mark = Mark.NOTE
        yield Finding(ROOM, model.name, mark, text)


def _room_in_words(model: Model, facts: Facts) -> tuple[Mark, str]:
    if model.need is None or model.need_4bit is None:
        return Mark.NOTE, "unknown: the size of the checkpoint is told by its files"
    needed = _arithmetic(model.need)
    if model.free_bytes is None or model.fit is Fit.UNKNOWN:
        return Mark.NOTE, f"unknown: {needed}, and how much is free is not told"
    sums = f"{needed}; {memory_size(model.free_bytes)} free"
    if model.load_4bit and facts.four_bit is not None and not facts.four_bit.is_usable:
        return Mark.PROBLEM, f"4-bit weights are not usable here: {sums}"
    if model.fit is Fit.FITS:
        return Mark.OK, f"fits: {sums}"
    if model.fit is Fit.SPREAD:
        return Mark.OK, f"fits, spread over {len(facts.graphics.gpus)} GPUs: {sums}"
    return _no_room_in_words(model, sums)


def _no_room_in_words(model: Model, sums: str) -> tuple[Mark, str]:
    """Say that a model has no room as it is, and what may be done."""
    assert model.need_4bit is not None, "what is not known to fit has a size"
    if model.fit is Fit.WITH_4BIT:
        text = f"fits with --load-4bit, {memory_size(model.need_4bit.total)}; without it: {sums}"
    else:
        text = f"does not fit: {sums}; try -m tiny, or a machine with more memory"
    if model.runs_offloaded:
        return Mark.NOTE, f"{text}; a part would stay in the computer's memory, which is slow"
    return Mark.PROBLEM, text


def _arithmetic(need: Need) -> str:
    parts = f"weights {memory_size(need.weights)} + KV cache {memory_size(need.cache)}"
    return f"{parts} + activations {memory_size(need.activations)} = {memory_size(need.total)}"
