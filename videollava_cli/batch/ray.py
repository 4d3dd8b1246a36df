"""`vllava batch --ray`: the nodes of a Ray cluster read media and answer, each engine in an actor of Ray Data.

Rows of the dataset are pickled: first the items about one medium, then their outcomes to answer, then `Answered`.
"""

import importlib.util
import logging
import os
import pickle
import re
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from videollava_cli import __version__
from videollava_cli.batch.lines import BatchStats, Outcome
from videollava_cli.batch.pipeline import Job, answered, load_engine, outcomes_of
from videollava_cli.batch.work import Item, by_medium
from videollava_cli.console import Console
from videollava_cli.engine import MAX_CPU_SEQS, MAX_GPU_SEQS
from videollava_cli.engine.checkpoint import (
    BUNDLED_SCHEME,
    CHECKPOINT_BITS,
    Checkpoint,
    compute_dtype,
    dtype_bits,
    find_checkpoint,
    model_size,
    published_bytes,
)
from videollava_cli.errors import CheckpointError, GenerationError, MediaError, UsageError, VllavaError
from videollava_cli.machine import num_processors
from videollava_cli.process import scratch_folder
from videollava_cli.reader import Reader, ReadResult
from videollava_cli.settings import Settings

LOCAL = "local"  # a Ray cluster of our own on this machine
ADDRESS = re.compile(r"auto|local|[^\s/]+:\d+")
# Fractional CPU requests, so that readers and engines never block each other, even when only one node is left.
ENGINE_CPUS, READER_CPUS = 0.001, 0.9
ENGINE_BYTES = 1 << 30  # of a process with torch, transformers and the needs of a batch, beside its weights
LOCAL_OBJECT_BYTES = 1 << 30  # of the object store of a cluster of our own
MAX_IN_FLIGHT = 2  # calls of an engine: the one in work, and one whose media are fetched meanwhile
MAX_RETRIES = 3  # of the work of a process or node that died; Ray Data itself would try for ever
MAX_LOST_BLOCKS = 16  # tolerated; with more of them something is wrong with the cluster, not with the media
REACHED_WITHIN_SECONDS = 10
PACKED = "packed"
LOST = "Ray gave up on it, after the processes that read or answered it died: --redo-failed asks again"

# What an engine did in a call: outcomes, how many questions it answers at once, seconds that it waited and answered.
Answered = tuple[list[Outcome], int, float, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """The knowledge of every node: a job without its items, its checkpoint, and the driver's folder."""

    job: Job
    checkpoint: Checkpoint
    folder: str
    scratch: str = ""  # a folder of the driver for temporary files: nodes that see it leave none behind
    version: str = __version__


def check_address(address: str) -> None:
    """Refuse what is no address, and Ray where it is not installed, without importing it."""
    if not ADDRESS.fullmatch(address):
        raise UsageError(f"--ray is {address!r}: give HOST:PORT of a `ray start --head`, auto, or nothing at all")
    if any(importlib.util.find_spec(package) is None for package in ("ray", "pyarrow")):
        raise UsageError("--ray needs the package ray: pip install '.[ray]' in the folder of vllava's sources")


def answer_on_ray(
    job: Job, items: Sequence[Item], checkpoint: Checkpoint, stats: BatchStats, console: Console
) -> Generator[Outcome, None, None]:
    """Yield the outcome of each item once, as the nodes come to them or in the order of the items.

    The work of a node that died is done again by others. An item that kills every process that works on it fails.
    """
    left = dict.fromkeys(items)  # until their outcomes are there
    if not left:
        return
    assert job.ray is not None, "--ray was given"
    with scratch_folder() as scratch, join_cluster(job.ray) as nodes:
        num_engines, resources = engines(nodes, job.settings, checkpoint)
        on_gpus = "num_gpus" in resources
        where = "GPUs" if on_gpus else "CPUs"
        console.detail(f"Ray has {len(nodes)} node{'s'[: len(nodes) - 1]}; engines on {num_engines} {where}")
        plan = replace(plan_of(job, checkpoint, device="cuda" if on_gpus else "cpu"), scratch=scratch)
        for row in _dataset(plan, list(by_medium(items)), num_engines, resources).iter_rows():
            done: Answered | VllavaError = pickle.loads(row[PACKED])  # noqa: S301  # our own workers wrote it
            if isinstance(done, VllavaError):
                raise done
            outcomes, batch_size, wait_seconds, answer_seconds = done
            if not stats.batch_size:  # the first ones
                stats.start_clock(seconds_ago=wait_seconds + answer_seconds)
            stats.batch_size = batch_size
            stats.wait_seconds += wait_seconds
            stats.answer_seconds += answer_seconds
            for outcome in outcomes:
                if outcome.item not in left:  # the work of a node that died may come twice
                    continue
                while job.is_ordered and (first := next(iter(left))) != outcome.item:  # Ray left it out
                    del left[first]
                    yield Outcome(first, error=GenerationError(LOST))
                del left[outcome.item]
                yield outcome
    yield from (Outcome(item, error=GenerationError(LOST)) for item in left)


def plan_of(job: Job, checkpoint: Checkpoint, device: str) -> Plan:
    """Return the plan of a job; a hub checkpoint's commit is fixed, so that all nodes load the same."""
    settings = replace(job.settings, device=device)
    if device == "cpu":  # the same number format on all nodes, whatever their processors
        settings = replace(settings, cpu_dtype=compute_dtype(model_size(checkpoint), settings, is_on_cpu=True))
    if checkpoint.hub_id:
        settings = replace(settings, revision=checkpoint.folder.name)
    elif not (settings.checkpoint or settings.model).startswith(BUNDLED_SCHEME):
        settings = replace(settings, checkpoint=str(checkpoint.folder.absolute()))
    return Plan(replace(job, items=(), settings=settings), checkpoint, os.getcwd())


def engines(
    nodes: Sequence[Mapping[str, float]], settings: Settings, checkpoint: Checkpoint
) -> tuple[int, dict[str, int]]:
    """Return how many engines nodes hold, and what each takes of its node's resources, in Ray's words.

    That is one a GPU; or without GPUs, one a CPU as far as the weights fit the memory.
    """
    if settings.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device is {settings.device!r}, and Ray gives each engine its own: give cuda, cpu or auto")
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if settings.device == "cuda" and not num_gpus:
        raise UsageError("device is 'cuda' and the nodes of Ray have no GPU: give --device cpu")
    if num_gpus and settings.device != "cpu":
        return num_gpus, {"num_gpus": 1}
    bits = dtype_bits(compute_dtype(model_size(checkpoint), settings, is_on_cpu=True))
    num_bytes = published_bytes(checkpoint) * bits // CHECKPOINT_BITS + ENGINE_BYTES
    count = sum(min(int(node.get("CPU", 0)), int(node.get("memory", 0)) // num_bytes) for node in nodes)
    if not count:
        raise GenerationError(f"no node of Ray has a CPU and {num_bytes / (1 << 30):.1f} GiB for {settings.model!r}")
    return count, {"memory": num_bytes}


def media_a_block(num_media: int, num_cpus: int) -> int:
    """Return how many neighbours are read by one call: several, for speed, but few enough that all CPUs are busy."""
    return max(1, min(16, num_media // (4 * max(1, num_cpus))))


def _dataset(plan: Plan, groups: Sequence[Sequence[Item]], num_engines: int, resources: dict[str, int]) -> Any:
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.util.annotations import RayDeprecationWarning

    context = DataContext.get_current()
    context.execution_options.preserve_order = plan.job.is_ordered
    context.enable_progress_bars = context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    context.max_errored_blocks = MAX_LOST_BLOCKS
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    questions_a_medium = sum(map(len, groups)) / len(groups)
    at_once = plan.job.batch_size or (MAX_GPU_SEQS if "num_gpus" in resources else MAX_CPU_SEQS)
    media_an_engine = -(-len(groups) // num_engines)
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    num_blocks = -(-len(groups) // media_a_block(len(groups), num_cpus))
    rows = [{PACKED: pickle.dumps(group)} for group in groups]
    with warnings.catch_warnings():
        # Ray Data has no other way yet to say how often lost work is tried again.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", RayDeprecationWarning)
        read = ray.data.from_items(rows, override_num_blocks=num_blocks).map_batches(
            lambda table: _packed(read_media(plan, _unpacked(table))),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=READER_CPUS * (plan.job.settings.decode_threads or 1),
            max_retries=MAX_RETRIES,
        )
        return read.map_batches(
            EngineActor,
            fn_constructor_args=(plan,),
            batch_size=max(1, min(media_an_engine, int(at_once / questions_a_medium))),
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=num_engines, max_tasks_in_flight_per_actor=MAX_IN_FLIGHT),
            num_cpus=ENGINE_CPUS,
            max_task_retries=MAX_RETRIES,
            **resources,
        )


def read_media(plan: Plan, groups: Sequence[Sequence[Item]]) -> list[list[Outcome] | VllavaError]:
    """Read the media of groups of items on this node; return outcomes to answer, or why none can be."""
    try:
        _check_node(plan)
    except VllavaError as error:
        return [error for _ in groups]
    settings, pixels = plan.job.settings, plan.checkpoint.pixels
    with (
        Reader.of_many(settings, settings.decode_threads or 1) as reader,
        reader.read_ahead(groups, pixels, source=lambda about_it: about_it[0].path) as read_ahead,
    ):
        return [_outcomes_here(items, result) for items, result in read_ahead]


def _outcomes_here(items: Sequence[Item], result: ReadResult) -> list[Outcome]:
    path = items[0].path
    if items[0].stamp and not os.path.exists(os.path.expanduser(path)):
        reason = f"{path!r} is not on {_here()}: nodes must see media by the same paths"
        return [Outcome(item, error=MediaError(reason)) for item in items]
    return list(outcomes_of(items, result))


class EngineActor:
    """An engine on a node of Ray, loaded once: it answers questions about media that were read elsewhere."""

    def __init__(self, plan: Plan) -> None:
        self._max_num_seqs, self._stats = plan.job.batch_size, BatchStats()
        self._error: VllavaError | None = None
        try:
            _check_node(plan)
            settings = plan.job.settings
            folder = settings.checkpoint or settings.model
            if not plan.checkpoint.hub_id and not folder.startswith(BUNDLED_SCHEME) and not os.path.isdir(folder):
                raise CheckpointError(f"there is no folder {folder!r}")
            self._engine = load_engine(plan.job, find_checkpoint(settings), self._stats, Console(is_quiet=True))
        except VllavaError as error:
            self._error = type(error)(f"{error} (on {_here()})")
        self._ended = time.perf_counter()

    def __call__(self, table: Any) -> Any:
        """Answer a table of packed rows, as Ray Data has it."""
        return _packed([self.answer(_unpacked(table))])

    def answer(self, groups: Sequence[list[Outcome] | VllavaError]) -> Answered | VllavaError:
        """Answer groups, or return why nothing can be read or answered here."""
        began = time.perf_counter()
        wait_seconds = began - self._ended
        read: list[Outcome] = []
        for outcomes in groups:
            if isinstance(outcomes, VllavaError):
                return outcomes
            read += outcomes
        if self._error is None:
            done = answered(self._engine, read, self._stats, max_num_seqs=self._max_num_seqs)
            by_item = {outcome.item: outcome for outcome in done}
            read = [by_item[outcome.item] for outcome in read]
        elif any(outcome.medium for outcome in read):
            return self._error
        self._ended = time.perf_counter()
        return read, self._stats.batch_size, wait_seconds, self._ended - began


def _check_node(plan: Plan) -> None:
    if plan.version != __version__:
        raise UsageError(f"{_here()} has vllava {__version__}, not {plan.version}: install the same on every node")
    with suppress(OSError):
        os.chdir(plan.folder)  # relative paths begin there
    if os.path.isdir(plan.scratch):
        tempfile.tempdir = plan.scratch


def _here() -> str:
    return f"the node {socket.gethostname()}"


def _packed(entries: Sequence[object]) -> Any:
    import pyarrow

    return pyarrow.table({PACKED: pyarrow.array([pickle.dumps(entry) for entry in entries], pyarrow.large_binary())})


def _unpacked(table: Any) -> list[Any]:
    return [pickle.loads(packed) for packed in table.column(PACKED).to_pylist()]  # noqa: S301  # our own driver wrote it


@contextmanager
def join_cluster(address: str) -> Iterator[list[dict[str, float]]]:
    """Start a Ray cluster on this machine alone, or join the one at an address; give the resources of its nodes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a cluster of our own reports to nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # otherwise it warns of what Ray Data does
    import ray
    from ray._private import utils, worker

    utils.set_sigterm_handler = lambda _handler: None  # it is ours: `ray.init` would take it
    worker._worker_logs_enabled = False  # the complaints of a node would come on stdout; as Ray's own debugger does it
    options: dict[str, Any] = {}
    if address == LOCAL:
        options = {"num_cpus": num_processors(), "object_store_memory": LOCAL_OBJECT_BYTES}
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    elif ":" in address:
        _check_reachable(address)
    try:
        with _silent_stderr():  # of native code: the exception says what went wrong
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)  # Ray's native one prints
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address == LOCAL:
            raise GenerationError(f"cannot start Ray: {_reason(error)}") from error
        raise UsageError(f"cannot join a Ray at {address!r}: {_reason(error)}") from error
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    except ray.exceptions.RayTaskError:  # a bug of ours, with its traceback
        raise
    except ray.exceptions.RayError as error:
        raise GenerationError(f"Ray gave up: {_reason(error)}; run the same command to go on") from error
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    # Where nobody listens Ray itself would try for minutes.
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"nobody listens at {address!r}: give the address that `ray start --head` printed") from error


def _reason(error: BaseException) -> str:
    # The last line: before it may be the traceback of another process.
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__


@contextmanager
def _silent_stderr() -> Iterator[None]:
    if sys.stderr is not None:
        sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
