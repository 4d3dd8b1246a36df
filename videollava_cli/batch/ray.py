"""What `vllava batch --ray` does in place of its pipeline: the same reading and answering, on the nodes of a Ray."""

import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING

from videollava_cli import __version__
from videollava_cli.batch import Item
from videollava_cli.batch.cluster import Actors, Node, Steps, joined, spread
from videollava_cli.batch.pipeline import Failed, NoMedia, Outcome, Pace, Row, Unread, answered
from videollava_cli.batch.reading import Answering, Reading
from videollava_cli.batch.worklist import by_medium
from videollava_cli.console import Console
from videollava_cli.engine.batch import MAX_CPU_ROWS, MAX_GPU_ROWS
from videollava_cli.engine.checkpoint import BUNDLED_SCHEME, Checkpoint, find_checkpoint, published_bytes
from videollava_cli.errors import CheckpointError, GenerationError, MediaError, UsageError, VllavaError
from videollava_cli.machine import num_processors
from videollava_cli.media import Medium
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from videollava_cli.engine.batch import Answer

# Of a process with torch, transformers and what a batch takes, beside its weights.
ENGINE_BYTES = 1 << 30
LOST = "Ray gave up on it, after the processes that read or answered it died: --redo-failed asks again"


@dataclass(frozen=True, slots=True)
class Plan:
    """What every node has to know. `folder` is where relative paths begin."""

    settings: Settings
    checkpoint: Checkpoint
    common_questions: tuple[str, ...]
    batch_size: int | None
    folder: str
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Group:
    """The items about one medium, and its place in the work list."""

    number: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What became of a group where it was read."""

    number: int
    entries: Sequence[Row | Unread] | VllavaError


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What became of groups where they were answered; seconds are those of the engine, `ready_seconds` since loading.

    Media have lost their pictures: lines tell the rest.
    """

    groups: "Sequence[tuple[int, list[Outcome[Answer]]]]"
    batch_size: int = 0
    load_seconds: float = 0.0
    ready_seconds: float = 0.0
    wait_seconds: float = 0.0
    answer_seconds: float = 0.0


@dataclass(slots=True)
class Spread:
    """Items in, outcomes out, as of a `Pipeline`; seconds in `pace` are those of all engines together.

    `load_seconds` are those of the engine that gave the outcomes in hand.

    Args:
        plan: What every node has to know.
        address: Of the Ray to join; `local` starts one.
        is_ordered: Whether outcomes come in the order of the items.
        begin: Called once, when the first outcomes came, with the seconds since their engine was loaded.
        tell: Called with what may be worth knowing of the nodes.
    """

    plan: Plan
    address: str
    is_ordered: bool
    begin: Callable[[float], None]
    tell: Callable[[str], None]
    pace: Pace = field(default_factory=Pace)
    load_seconds: float = 0.0

    def run(self, items: Iterable[Item]) -> "Generator[list[Outcome[Answer]], None, None]":
        """Yield outcomes as they come from the nodes, each item's once.

        Raises:
            UsageError: If there is no Ray to join, or its nodes cannot do what the settings ask.
            CheckpointError: If a node cannot have the checkpoint.
            GenerationError: If the weights do not fit the memory, or Ray gave up.
        """
        left = {
            number: Group(number, about_it) for number, (_, about_it) in enumerate(by_medium(items))
        }  # until their outcomes are there
        if not left:
            return
        with joined(self.address, num_processors()) as nodes:
            for done in spread(list(left.values()), self._steps(nodes, list(left.values()))):
                if isinstance(done, VllavaError):
                    raise done
                self._note(done)
                for number, outcomes in done.groups:
                    if left.pop(number, None):
                        yield outcomes
        for group in left.values():
            yield [Failed(item, GenerationError(LOST)) for item in group.items]

    def _steps(self, nodes: Sequence[Node], groups: Sequence[Group]) -> "Steps[Group, Read, Done | VllavaError]":
        actors = engines(nodes, self.plan.settings, self.plan.checkpoint)
        where = "GPUs" if actors.num_gpus else "CPUs"
        self.tell(f"Ray has {len(nodes)} node{'s'[: len(nodes) - 1]}; engines on {actors.count} {where}")
        device = "cuda" if actors.num_gpus else "cpu"
        plan = replace(self.plan, settings=replace(self.plan.settings, device=device))
        rows_at_once = plan.batch_size or (MAX_GPU_ROWS if actors.num_gpus else MAX_CPU_ROWS)
        rows_a_medium = sum(len(group.items) for group in groups) / len(groups)
        media_an_engine = -(-len(groups) // actors.count)
        return Steps(
            first=partial(read_group, plan),
            num_threads=plan.settings.decode_threads or 1,
            make_second=partial(AnsweringGroups, plan),
            entries_a_call=max(1, min(media_an_engine, int(rows_at_once / rows_a_medium))),
            actors=actors,
            is_ordered=self.is_ordered,
        )

    def _note(self, done: Done) -> None:
        if not self.pace.batch_size:
            self.begin(done.ready_seconds)
        self.load_seconds = done.load_seconds
        self.pace.batch_size = done.batch_size
        self.pace.wait_seconds += done.wait_seconds
        self.pace.answer_seconds += done.answer_seconds


def plan_of(
    settings: Settings, checkpoint: Checkpoint, common_questions: Sequence[str], batch_size: int | None
) -> Plan:
    """Return what nodes have to know; a hub checkpoint's commit is fixed, so that all of them load the same."""
    if checkpoint.hub_id:
        settings = replace(settings, revision=checkpoint.folder.name)
    elif not (settings.checkpoint or settings.model).startswith(BUNDLED_SCHEME):
        settings = replace(settings, checkpoint=str(checkpoint.folder.absolute()))
    return Plan(settings, checkpoint, tuple(common_questions), batch_size, os.getcwd())


def engines(nodes: Sequence[Node], settings: Settings, checkpoint: Checkpoint) -> Actors:
    """Return how many engines nodes hold: one a GPU; or without GPUs, one a CPU as far as the weights fit the memory.

    Raises:
        UsageError: If the settings name a device that Ray does not give.
        GenerationError: If the nodes hold none.
    """
    if settings.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device is {settings.device!r}, and Ray gives each engine its own: give cuda, cpu or auto")
    num_gpus = sum(node.num_gpus for node in nodes)
    if settings.device == "cuda" and not num_gpus:
        raise UsageError("device is 'cuda' and the nodes of Ray have no GPU: give --device cpu")
    if num_gpus and settings.device != "cpu":
        return Actors(num_gpus, num_gpus=1)
    widened = 1 if settings.dtype in ("float16", "bfloat16") else 2  # published as float16, float32 on a CPU
    num_bytes = widened * published_bytes(checkpoint) + ENGINE_BYTES
    count = sum(min(node.num_cpus, node.num_bytes // num_bytes) for node in nodes)
    if not count:
        raise GenerationError(f"no node of Ray has a CPU and {num_bytes / (1 << 30):.1f} GiB for {settings.model!r}")
    return Actors(count, num_bytes=num_bytes)


def read_group(plan: Plan, group: Group) -> Read:
    """Read the medium of a group, on whatever node this is."""
    try:
        reading = _reading(plan)
    except VllavaError as error:
        return Read(group.number, error)
    item = group.items[0]
    if item.stamp and not os.path.exists(os.path.expanduser(item.source.path)):
        reason = f"{item.source.path!r} is not on {_here()}: nodes must see media by the same paths"
        return Read(group.number, [Failed(item, MediaError(reason)) for item in group.items])
    return Read(group.number, reading.read(group.items))


class AnsweringGroups:
    """An engine on a node of Ray: loaded once, then it answers groups."""

    def __init__(self, plan: Plan) -> None:
        self._pace = Pace()
        self._error: VllavaError | None = None
        try:
            _check_node(plan)
            checkpoint = _checkpoint_here(plan)
            self._answering = Answering(
                plan.settings, checkpoint, Console(is_quiet=True), plan.common_questions, plan.batch_size
            )
            self._pace.batch_size = self._answering.prepare()
        except VllavaError as error:
            self._error = type(error)(f"{error} (on {_here()})")
        self._ready = self._ended = time.perf_counter()

    def __call__(self, groups: list[Read]) -> Done | VllavaError:
        """Answer groups, or return why nothing can be read or answered here."""
        began = time.perf_counter()
        wait_seconds = began - self._ended
        entries: list[tuple[int, Row | Unread]] = []
        for group in groups:
            if isinstance(group.entries, VllavaError):
                return group.entries
            entries += [(group.number, entry) for entry in group.entries]
        if self._error and any(isinstance(entry, Row) for _, entry in entries):
            return self._error
        batches = answered([entry for _, entry in entries], self._answer, self._pace)
        outcomes = [without_pictures(outcome) for batch in batches for outcome in batch]
        by_number: dict[int, list[Outcome[Answer]]] = {group.number: [] for group in groups}
        for (number, _), outcome in zip(entries, outcomes, strict=True):
            by_number[number].append(outcome)
        self._ended = time.perf_counter()
        return Done(
            groups=list(by_number.items()),
            batch_size=self._pace.batch_size,
            load_seconds=0.0 if self._error else self._answering.load_seconds,
            ready_seconds=self._ended - self._ready,
            wait_seconds=wait_seconds,
            answer_seconds=self._ended - began,
        )

    def _answer(self, rows: Sequence[Row]) -> "Sequence[Answer | UsageError]":
        return self._answering.answer(rows)


def without_pictures(outcome: "Outcome[Answer]") -> "Outcome[Answer]":
    """Return an outcome with all of its medium but the pixels, to travel."""
    if isinstance(outcome, NoMedia) or outcome.row is None:
        return outcome
    return replace(outcome, row=replace(outcome.row, medium=_without_pixels(outcome.row.medium)))


def _without_pixels(medium: Medium) -> Medium:
    return replace(medium, pixels=medium.pixels[:, :0, :0])


@cache
def _reading(plan: Plan) -> Reading:
    """Return what reads media in this process."""
    _check_node(plan)
    return Reading(plan.settings, plan.checkpoint, plan.settings.decode_threads or 1)


def _check_node(plan: Plan) -> None:
    """Refuse another version of vllava than the driver's, and work where the driver does, if this node can."""
    if plan.version != __version__:
        raise UsageError(f"{_here()} has vllava {__version__}, not {plan.version}: install the same on every node")
    with suppress(OSError):
        os.chdir(plan.folder)


def _checkpoint_here(plan: Plan) -> Checkpoint:
    """Find the checkpoint on this node; from the hub, the node's own cache has it or is filled."""
    folder = plan.settings.checkpoint or plan.settings.model
    if not plan.checkpoint.hub_id and not folder.startswith(BUNDLED_SCHEME) and not os.path.isdir(folder):
        raise CheckpointError(f"there is no folder {folder!r}")
    return find_checkpoint(plan.settings)


def _here() -> str:
    return f"the node {socket.gethostname()}"
