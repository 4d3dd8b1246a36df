"""Work on a device that is recorded once and replayed, as a CUDA graph; knows torch's streams, no model.

A decode step of the 7B is about a thousand small kernels, and starting them one by one takes the host longer than they
run. A replayed graph starts them all at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch

Work = Callable[[], object]


class Recorder:
    """Do the same work over and over: once as it is, to warm up, then recorded.

    The work uses no tensors but those it used before, reads nothing back and leaves its shapes as they are. Where
    recording fails it is done as it is: slower, and just as right. A CPU's counts as recorded, and is done as it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_recorded = False  # whether doing the work once more costs the host next to nothing
        self._is_warm = False
        self._is_refused = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def do(self, work: Work) -> None:
        """Do the work; the first two times this call waits until its kernels are started one by one."""
        if self._is_warm and not self.is_recorded and not self._is_refused:
            self._record(work)
        if self._graph is not None:
            self._graph.replay()
            return
        with _aside(self.device):
            work()
        self._is_warm = True

    def _record(self, work: Work) -> None:
        try:
            self._graph = record(work, self.device)
        except RuntimeError:  # of torch or CUDA; what is really wrong shows when the work is done as it is
            self._is_refused = True
        else:
            self.is_recorded = True


def record(work: Work, device: torch.device) -> torch.cuda.CUDAGraph | None:
    """Return the graph of a work's kernels, doing none of it; None where there are no graphs, as on a CPU.

    Raises:
        RuntimeError: If the work cannot be recorded.
    """
    if device.type != "cuda":
        return None
    graph = torch.cuda.CUDAGraph()
    with _aside(device):
        # Not by `torch.cuda.graph`: it gives all unused memory back first, which the next prefill would have to get
        # anew. Other threads may go on using the card meanwhile.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    return graph


def sent_to_host(numbers: torch.Tensor) -> Callable[[], list[int]]:
    """Start to copy a row of whole numbers to the host; return what waits for them, and for nothing asked later."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    held = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    held.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(numbers.device))

    def read() -> list[int]:
        """Wait for the copy, and return the row."""
        arrived.synchronize()
        row: list[int] = held.tolist()
        return row

    return read


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a device that work is recorded on: cuBLAS keeps a workspace for each that it sees."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Run what follows on a card's side stream, which recording needs, in its order with all else; elsewhere as it is.

    Warming up happens there, too, so that workspaces are made before anything is recorded.
    """
    if device.type != "cuda":
        yield
        return
    stream, current = _side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:  # also behind an interrupt: what was started still writes to the cache
        current.wait_stream(stream)
