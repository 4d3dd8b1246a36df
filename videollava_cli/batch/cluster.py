"""A Ray cluster and work that is spread over it; knows Ray, nothing of media, models or lines."""

import importlib.util
import logging
import os
import pickle
import re
import socket
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from videollava_cli.errors import GenerationError, UsageError

FirstT = TypeVar("FirstT")
BetweenT = TypeVar("BetweenT")
LastT = TypeVar("LastT")

LOCAL = "local"  # a Ray of our own on this machine
ADDRESS = re.compile(r"auto|local|[^\s/]+:\d+")
# Actors take no CPU to speak of, and first steps not quite a whole one: so the two never wait for each other's CPUs,
# not even when all actors of a cluster come together on the one node that is left.
ACTOR_CPUS, FIRST_CPUS = 0.001, 0.9
LOCAL_OBJECT_BYTES = 1 << 30  # what a Ray of our own may hold between steps
MAX_IN_FLIGHT = 2  # calls of an actor: the one in work, and one whose inputs are fetched meanwhile
MAX_RETRIES = 3  # of what was in work when its process or node died; Ray Data itself would try for ever
REACHED_WITHIN_SECONDS = 10
MAX_LOST_BLOCKS = 16  # tolerated; with more of them something is wrong with the cluster, not with what it works on
PACKED = "packed"


@dataclass(frozen=True, slots=True)
class Node:
    """What a living node offers."""

    num_cpus: int
    num_gpus: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Actors:
    """How many actors do the second step, and what each of them takes of its node."""

    count: int
    num_gpus: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Steps(Generic[FirstT, BetweenT, LastT]):
    """Two steps that nodes do. What is called must be importable there, and what travels can be pickled.

    Args:
        first: Done for each entry wherever a CPU is free.
        num_threads: How many CPUs that keeps busy.
        make_second: Called once an actor; what it returns is done for so many neighbours at once.
        entries_a_call: How many they are.
        actors: Where.
        is_ordered: Whether results come in the order of the entries.
    """

    first: Callable[[FirstT], BetweenT]
    num_threads: int
    make_second: Callable[[], Callable[[list[BetweenT]], LastT]]
    entries_a_call: int
    actors: Actors
    is_ordered: bool = True


def check_address(address: str) -> None:
    """Refuse what is no address, and Ray where it is not installed, without importing it.

    Raises:
        UsageError: If it is so.
    """
    if not ADDRESS.fullmatch(address):
        raise UsageError(f"--ray is {address!r}: give HOST:PORT of a `ray start --head`, auto, or nothing at all")
    if any(importlib.util.find_spec(package) is None for package in ("ray", "pyarrow")):
        raise UsageError("--ray needs the package ray: pip install 'videollava-cli[ray]'")


@contextmanager
def joined(address: str, num_processors: int) -> Iterator[list[Node]]:
    """Start a Ray on this machine alone, or join the one at an address; give its nodes.

    Args:
        address: `local`, `auto` for one that runs here, or HOST:PORT.
        num_processors: How many of this machine's processors a Ray of our own may use.

    Raises:
        UsageError: If there is none at the address, or it has another version.
        GenerationError: If it broke down, or one of our own cannot be started.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a Ray of our own tells nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # otherwise it warns of what Ray Data does
    import ray
    from ray._private import worker

    worker._worker_logs_enabled = False  # what a node complains of would come on stdout; as Ray's own debugger does it
    of_our_own: dict[str, Any] = {
        "num_cpus": num_processors,
        "object_store_memory": LOCAL_OBJECT_BYTES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    options = of_our_own if address == LOCAL else {}
    if ":" in address:
        _check_reachable(address)
    try:
        with _silent_stderr():  # of native code: what went wrong, the exception tells
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address == LOCAL:
            raise GenerationError(f"cannot start Ray: {_reason(error)}") from error
        raise UsageError(f"cannot join a Ray at {address!r}: {_reason(error)}") from error
    try:
        yield [_node(found["Resources"]) for found in ray.nodes() if found["Alive"]]
    except ray.exceptions.RayTaskError:  # a bug of ours, with its traceback
        raise
    except ray.exceptions.RayError as error:
        raise GenerationError(f"Ray gave up: {_reason(error)}; run the same command to go on") from error
    finally:
        ray.shutdown()


def spread(entries: Sequence[FirstT], steps: Steps[FirstT, BetweenT, LastT]) -> Generator[LastT, None, None]:
    """Yield the results of two steps as they are done on the nodes that `joined` gave.

    What a node had in work when it died is done again by others, so a result may come twice; and what kills whoever
    does it is given up after some tries, so a result may be missing.
    """
    import ray

    _set_context(is_ordered=steps.is_ordered)
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    rows = [{PACKED: pickle.dumps(entry)} for entry in entries]
    num_blocks = -(-len(rows) // entries_a_block(len(rows), num_cpus))
    for row in _planned(ray.data.from_items(rows, override_num_blocks=num_blocks), steps).iter_rows():
        yield pickle.loads(row[PACKED])  # noqa: S301  # our own workers wrote it


def _planned(rows: Any, steps: Steps[Any, Any, Any]) -> Any:
    """Return a dataset of the results of two steps, of which nothing is done yet."""
    from ray.data import ActorPoolStrategy
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings():
        # Ray Data has no other way yet to say how often what died is tried again.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", RayDeprecationWarning)
        between = rows.map_batches(
            _do_first,
            fn_args=(steps.first,),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=FIRST_CPUS * steps.num_threads,
            max_retries=MAX_RETRIES,
        )
        return between.map_batches(
            _Second,
            fn_constructor_args=(steps.make_second,),
            batch_size=steps.entries_a_call,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=steps.actors.count, max_tasks_in_flight_per_actor=MAX_IN_FLIGHT),
            num_cpus=ACTOR_CPUS,
            num_gpus=steps.actors.num_gpus or None,
            memory=steps.actors.num_bytes or None,
            max_task_retries=MAX_RETRIES,
        )


def entries_a_block(num_entries: int, num_cpus: int) -> int:
    """Return how many neighbours a first step takes: few enough that all CPUs are busy, and several, for speed."""
    return max(1, min(16, num_entries // (4 * max(1, num_cpus))))


def _do_first(table: Any, first: Callable[[Any], Any]) -> Any:
    return _packed([first(entry) for entry in _unpacked(table)])


class _Second:
    """What an actor does."""

    def __init__(self, make: Callable[[], Callable[[list[Any]], Any]]) -> None:
        self._second = make()

    def __call__(self, table: Any) -> Any:
        return _packed([self._second(_unpacked(table))])


def _packed(entries: Sequence[object]) -> Any:
    import pyarrow

    return pyarrow.table({PACKED: pyarrow.array([pickle.dumps(entry) for entry in entries], pyarrow.large_binary())})


def _unpacked(table: Any) -> list[Any]:
    return [pickle.loads(packed) for packed in table.column(PACKED).to_pylist()]  # noqa: S301  # our own driver wrote it


def _set_context(*, is_ordered: bool) -> None:
    """Say how Ray Data works: in order or not, quietly, and how much may be lost."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.execution_options.preserve_order = is_ordered
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    context.max_errored_blocks = MAX_LOST_BLOCKS
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _check_reachable(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"nobody listens at {address!r}: give the address that `ray start --head` printed") from error


def _reason(error: BaseException) -> str:
    """Return the last line of an error of Ray, where it has the traceback of another process."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__


@contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _node(resources: dict[str, float]) -> Node:
    return Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), int(resources.get("memory", 0)))
