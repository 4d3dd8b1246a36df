"""CUDA graphs: warm up, capture, replay; and copies to the host that nothing else waits for.

A decode step of the 7B is about a thousand small kernels, and starting them one by one takes the host longer than they
run. A replayed graph starts them all at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch

Capture = Callable[[Callable[[], object], torch.device], Any]  # returns something with a `replay` method


class GraphRunner:
    """Run the same work over and over: once eagerly to warm up, then captured, then replayed.

    The work reads and writes the same tensors each time, reads nothing back and keeps its shapes. It runs eagerly,
    slower and just as right, where capture fails, and without CUDA unless the caller has a `capture`.
    """

    def __init__(self, device: torch.device, capture: Capture | None = None) -> None:
        self.device = device
        self.is_captured = False  # then another run costs the host next to nothing
        self._capture = capture or (capture_graph if device.type == "cuda" else None)
        self._is_warm = False
        self._graph: Any = None

    def run(self, work: Callable[[], object]) -> None:
        """Run the work; the first two times this waits until its kernels are started one by one."""
        if self._is_warm and self._capture is not None:
            with suppress(RuntimeError):  # of torch or CUDA; what is really wrong shows in the eager run
                self._graph = self._capture(work, self.device)
                self.is_captured = True
            self._capture = None
        if self.is_captured:
            self._graph.replay()
            return
        with _on_side_stream(self.device):
            work()
        self._is_warm = True


def capture_graph(work: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Return the CUDA graph of a work's kernels, without running them; raises RuntimeError if it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    with _on_side_stream(device):
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


def copy_to_host(numbers: torch.Tensor) -> Callable[[], list[int]]:
    """Start to copy a row of whole numbers to the host; return a function that waits for this copy alone."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    held = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    held.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(numbers.device))

    def read() -> list[int]:
        arrived.synchronize()
        row: list[int] = held.tolist()
        return row

    return read


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # one only: cuBLAS keeps a workspace for each


@contextmanager
def _on_side_stream(device: torch.device) -> Iterator[None]:
    """Run on a card's side stream, as capture must; warm-up does, too, so that workspaces are made before capture."""
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
