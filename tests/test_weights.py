"""Weights on their way from files to memory: the numbers, and that no second copy is made."""

import subprocess
import sys

import pytest
import torch
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import save_file

from videollava_cli.engine.weights import CPU_BLOCK_BYTES, PIECE_NUMBERS, PiecewiseQuantization, stored_tensors

CPU = torch.device("cpu")
SHAPES = [(), (0, 3), (7,), (CPU_BLOCK_BYTES // 2,), (3, CPU_BLOCK_BYTES // 2 + 1), (1 << 20, 2)]
STATUS = """
from pathlib import Path

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
"""
PEAK = f"""{STATUS}
import sys
import torch
from videollava_cli.engine.weights import stored_tensors

before = status("VmRSS")
with stored_tensors([Path(sys.argv[1])], torch.device("cpu"), torch.float32) as tensors:
    kept = [tensor[...] for tensor in tensors.values()]
print((status("VmHWM") - before) / sum(tensor.nbytes for tensor in kept))
"""

HOLES = """
from pathlib import Path
import torch
from videollava_cli.machine import large_blocks_returned

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

torch.ones(1 << 20).sum()
before, kept = resident(), []
with large_blocks_returned():
    for number in range(64):
        dropped = torch.ones((2 + number % 3) << 20)
        kept.append(torch.ones(100_000))
        del dropped
print((resident() - before) / sum(tensor.nbytes for tensor in kept))
"""

QUANTIZING = f"""{STATUS}
import torch
from bitsandbytes.functional import quantize_4bit
from videollava_cli.engine.weights import PiecewiseQuantization
from videollava_cli.machine import large_blocks_returned

def quantize(num_rows):
    weight = torch.ones(num_rows, 4096)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here (proc(5))
    before = status("VmRSS")
    with large_blocks_returned(), PiecewiseQuantization():
        quantize_4bit(weight, quant_type="nf4")
    return (status("VmHWM") - before) / weight.nbytes

quantize(512)  # torch's threads and their memory are there from now on
print(quantize(8192))
"""


@pytest.fixture
def file(tmp_path):
    """Write random half-precision numbers in many shapes, and whole ones."""
    tensors = {str(number): torch.randn(shape).half() for number, shape in enumerate(SHAPES)}
    save_file({**tensors, "ids": torch.arange(9)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None])
def test_numbers_are_those_that_torch_converts_to(file, dtype):
    path, tensors = file

    with stored_tensors([path], CPU, dtype) as stored:
        read = {name: tensor[...] for name, tensor in stored.items()}

    assert torch.equal(read.pop("ids"), torch.arange(9))
    for name, tensor in tensors.items():
        assert read[name].dtype == (dtype or torch.float16)
        assert torch.equal(read[name], tensor.to(dtype or torch.float16))


def test_shape_and_format_are_known_before_anything_is_read(file):
    with stored_tensors([file[0]], CPU, torch.float32) as stored:
        assert (stored["4"].get_dtype(), stored["4"].get_shape()) == ("F16", [3, CPU_BLOCK_BYTES // 2 + 1])


def test_file_that_is_cut_short_while_it_is_read_is_an_error(file):
    path, _ = file
    with stored_tensors([path], CPU, torch.float32) as stored:
        with path.open("r+b") as opened:
            opened.truncate(1000)

        with pytest.raises(OSError, match="ends early"):
            [tensor[...] for tensor in stored.values()]


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_converting_takes_no_more_memory_than_its_outcome(tmp_path):
    save_file({str(n): torch.randn(1 << 24).half() for n in range(3)}, tmp_path / "model.safetensors")

    run = [sys.executable, "-c", PEAK, str(tmp_path / "model.safetensors")]
    done = subprocess.run(run, capture_output=True, check=True, text=True)

    assert 0.9 < float(done.stdout) <= 1.10


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_tensors_that_are_dropped_leave_no_holes_between_those_that_stay():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, check=True, text=True)

    assert float(done.stdout) < 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (1024, PIECE_NUMBERS // 512), (3, PIECE_NUMBERS // 2 + 7)])
def test_quantizing_in_pieces_gives_what_bitsandbytes_gives_at_once(shape, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    at_once, how_at_once = quantize_4bit(weight, quant_type="nf4")

    with PiecewiseQuantization():
        in_pieces, how_in_pieces = quantize_4bit(weight, quant_type="nf4")

    assert torch.equal(in_pieces, at_once)
    assert torch.equal(how_in_pieces.absmax, how_at_once.absmax)
    assert how_in_pieces.shape == weight.shape


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_quantizing_takes_little_beside_the_weight_and_its_outcome():
    done = subprocess.run([sys.executable, "-c", QUANTIZING], capture_output=True, check=True, text=True)

    assert float(done.stdout) < 0.5  # at once it takes 2.5 times the weight
