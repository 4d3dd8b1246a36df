"""What the facts mean to the default command, in words; a pure function of facts and settings."""

from collections.abc import Iterator, Sequence

from videollava_cli.doctor.facts import Facts, Finding, Gpu, Graphics, Mark, SelfTest, Software, Video
from videollava_cli.doctor.model_findings import checkpoint_findings, room_findings
from videollava_cli.doctor.sizes import memory_size
from videollava_cli.settings import Settings

PYTHON, MACHINE, PACKAGES, SELF_TEST = "Python and its packages", "Machine", "What may be used", "Self-test"


def find(facts: Facts, settings: Settings) -> list[Finding]:
    """Return what is to be said, section by section; a problem is what keeps the settings' command from working."""
    return [
        *_about_python(facts.software),
        *_about_machine(facts),
        *_about_uses(facts, settings),
        *checkpoint_findings(facts, settings),
        *room_findings(facts, settings),
        *_about_self_test(facts.self_test),
    ]


def reason_against(findings: Sequence[Finding]) -> str | None:
    """Return why the default command would not work, or None if it would."""
    problems = (finding for finding in findings if finding.mark is Mark.PROBLEM)
    return next((f"{problem.section}, {problem.subject}: {problem.text}" for problem in problems), None)


def _about_python(software: Software) -> Iterator[Finding]:
    yield Finding(PYTHON, "Python", Mark.OK, f"{software.python}, {software.system}")
    there = [f"{name} {version}" for name, version in software.versions.items() if version]
    yield Finding(PYTHON, "packages", Mark.OK, ", ".join(there))
    for problem in software.problems:
        yield Finding(PYTHON, "packages", Mark.PROBLEM, problem)


def _about_machine(facts: Facts) -> Iterator[Finding]:
    computer = facts.computer
    processors = f"{computer.num_processors} processor{'s' if computer.num_processors > 1 else ''} to use"
    yield Finding(MACHINE, "processors", Mark.OK, processors)
    if computer.memory_bytes is not None:
        free = "" if computer.available_bytes is None else f", {memory_size(computer.available_bytes)} available"
        yield Finding(MACHINE, "memory", Mark.OK, memory_size(computer.memory_bytes) + free)
    if facts.device is None:
        return
    if facts.graphics.problem:
        mark = Mark.NOTE if facts.device == "cpu" else Mark.PROBLEM
        yield Finding(MACHINE, "GPU", mark, f"not usable: {facts.graphics.problem}; see nvidia-smi, or --device cpu")
    else:
        yield from _about_graphics(facts.graphics)
    if facts.settings_problem:
        yield Finding(MACHINE, "settings", Mark.PROBLEM, facts.settings_problem)
    else:
        yield Finding(MACHINE, "settings", Mark.OK, f"they choose {facts.device}, {facts.dtype}")


def _about_graphics(graphics: Graphics) -> Iterator[Finding]:
    for gpu in graphics.gpus:
        yield Finding(MACHINE, gpu.device, Mark.OK, _gpu_in_words(gpu))
    if graphics.gpus:
        if graphics.torch_cuda:
            driver = f"NVIDIA driver {graphics.driver}" if graphics.driver else "no nvidia-smi to tell its version"
            yield Finding(MACHINE, "driver", Mark.OK, f"{driver}; torch is built for CUDA {graphics.torch_cuda}")
    elif graphics.cards:
        cards = f"{', '.join(graphics.cards)}, driver {graphics.driver}: torch cannot use "
        if graphics.torch_cuda is None:
            advice = "it, being built without CUDA: install the CUDA build, https://pytorch.org/get-started/locally"
        else:
            advice = (
                f"it: is the driver too old for CUDA {graphics.torch_cuda}, or CUDA_VISIBLE_DEVICES set? Renew the "
                "driver, or unset it"
            )
        yield Finding(MACHINE, "GPU", Mark.NOTE, cards + advice)
    else:
        yield Finding(MACHINE, "GPU", Mark.NOTE, "none that torch can use: models run on the processors")


def _gpu_in_words(gpu: Gpu) -> str:
    capability = "" if gpu.capability is None else f", compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    return f"{gpu.name}, {memory_size(gpu.total_bytes)}, {memory_size(gpu.free_bytes)} free{capability}"


def _about_uses(facts: Facts, settings: Settings) -> Iterator[Finding]:
    """Yield what some options need: quantization, attention, decoders, Ray."""
    if facts.four_bit is not None:
        bad = Mark.PROBLEM if settings.load_4bit or settings.load_8bit else Mark.NOTE
        text = f"a 4-bit layer ran on {facts.device}: bitsandbytes {facts.software.versions.get('bitsandbytes')}"
        if not facts.four_bit.is_usable:
            text = f"not usable: {facts.four_bit.reason}; go without --load-4bit and 7b-4bit"
        yield Finding(PACKAGES, "4-bit weights", Mark.OK if facts.four_bit.is_usable else bad, text)
    if facts.flash_attention is not None:
        bad = Mark.PROBLEM if settings.attn_implementation == "flash_attention_2" else Mark.NOTE
        text = f"it ran on {facts.device}: --flash-attn works"
        if not facts.flash_attention.is_usable:
            text = f"not usable: {facts.flash_attention.reason}; go without --flash-attn"
        yield Finding(PACKAGES, "flash-attn", Mark.OK if facts.flash_attention.is_usable else bad, text)
    if facts.video is not None:
        yield _about_video(facts.video)
    ray = facts.software.versions.get("ray")
    text = f"{ray}, for vllava batch --ray" if ray else "not installed; vllava batch --ray needs videollava-cli[ray]"
    yield Finding(PACKAGES, "ray", Mark.OK if ray else Mark.NOTE, text)


def _about_video(video: Video) -> Finding:
    text = f"PyAV {video.pyav} with FFmpeg {video.ffmpeg} decodes "
    text += ", ".join(name for name, is_there in video.decoders.items() if is_there) or "nothing that is usual"
    if lacking := [name for name, is_there in video.decoders.items() if not is_there]:
        text += f", but not {', '.join(lacking)}: PyAV's wheels do, pip install --force-reinstall av"
        return Finding(PACKAGES, "video", Mark.NOTE, text)
    return Finding(PACKAGES, "video", Mark.OK, text)


def _about_self_test(test: SelfTest | None) -> Iterator[Finding]:
    if test is None:
        return
    if test.is_right:
        text = f"asked {test.question!r}, tiny said {test.answer!r} after {test.seconds:.1f} s"
        yield Finding(SELF_TEST, "tiny", Mark.OK, text)
        return
    said = f"tiny said {test.answer!r}" if test.answer is not None else f"it failed: {test.reason}"
    text = f"asked {test.question!r}, {said}; true is {test.expected!r}. Try --device cpu, or install vllava anew"
    yield Finding(SELF_TEST, "tiny", Mark.PROBLEM, text)
