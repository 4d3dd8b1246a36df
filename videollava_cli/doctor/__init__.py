"""A check-up of this machine: finds out what there is, and what the default command would meet; prints nothing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from videollava_cli.doctor import libraries, machine
from videollava_cli.doctor.facts import Facts, Gpu
from videollava_cli.doctor.models import examine_model, find_place, models_to_examine
from videollava_cli.doctor.selftest import run_self_test
from videollava_cli.engine.startup import cache_folder
from videollava_cli.errors import UsageError
from videollava_cli.settings import Settings

__all__ = ["examine"]


def examine(settings: Settings, *, is_tested: bool) -> Facts:
    """Find out what there is, as the settings would use it; the network is left alone.

    Args:
        settings: Those of the command that is to work.
        is_tested: Whether to ask the bundled model a question, which takes a few seconds.

    Raises:
        UsageError: If the settings name no device.
    """
    software = libraries.look_at_software()
    kept = machine.look_at_kept_weights(cache_folder())
    facts = Facts(software, machine.look_at_computer(), machine.look_at_disk(_cache_folder(settings)), kept)
    return facts if software.problems else _examine_further(facts, settings, is_tested=is_tested)


def _cache_folder(settings: Settings) -> Path:
    """Return where checkpoints are fetched to."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return Path.home()
    return Path(HF_HUB_CACHE)


def _examine_further(facts: Facts, settings: Settings, *, is_tested: bool) -> Facts:
    """Find out what needs the libraries; what is tried in processes of their own runs beside the self-test."""
    import torch

    from videollava_cli.engine.loading import check_machine, choose_device, choose_dtype

    device = choose_device(settings.device)
    dtype = str(choose_dtype(settings.dtype, device)).removeprefix("torch.")
    graphics = machine.look_at_graphics(torch)
    problem = None
    try:
        check_machine(settings)
    except UsageError as error:
        problem = str(error)
    gpu = _gpu_of(str(device), graphics.gpus)
    with ThreadPoolExecutor() as pool:
        four_bit = pool.submit(libraries.try_four_bit, str(device), dtype)
        flash = pool.submit(libraries.try_flash_attention, str(device), dtype, gpu)
        self_test = run_self_test(settings) if is_tested else None
    place = find_place(str(device), settings, graphics.gpus, facts.computer.available_bytes)
    place = replace(place, has_4bit=four_bit.result().is_usable)
    return replace(
        facts,
        device=str(device),
        dtype=dtype,
        settings_problem=problem,
        graphics=graphics,
        four_bit=four_bit.result(),
        flash_attention=flash.result(),
        video=libraries.look_at_video(),
        models=tuple(examine_model(each, place) for each in models_to_examine(settings)),
        self_test=self_test,
    )


def _gpu_of(device: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """Return the GPU that a device is; `cuda` is the first of them."""
    named = "cuda:0" if device == "cuda" else device
    return next((gpu for gpu in gpus if gpu.device == named), None)
