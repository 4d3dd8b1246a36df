"""A check-up of this machine: whether `vllava ask` would work here, and if not, why not."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from videollava_cli import __version__
from videollava_cli.console import Console, printable
from videollava_cli.doctor import checks
from videollava_cli.doctor.checks import Checked, Finding
from videollava_cli.doctor.models import check_models
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

SETTINGS = ("model", "checkpoint", "revision", "offline", "device", "dtype", "load_4bit", "load_8bit")
# The keys of --json in their order, as they stay where the libraries are not usable.
NOTHING_FOUND: dict[str, Any] = {
    **dict.fromkeys(("software", "computer", "disk", "kept", "device", "dtype", "settings_problem")),
    "graphics": {"gpus": [], "torch_cuda": None, "driver": None, "cards": [], "problem": None},
    **dict.fromkeys(("four_bit", "flash_attention", "video")),
    "models": [],
    "self_test": None,
}
COLUMNS, INDENT, SUBJECT_COLUMNS = 80, 11, 15
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def examine(settings: Settings, *, is_tested: bool) -> dict[str, Any]:
    """Return the object that --json prints, sizes in bytes; raise UsageError if the settings name no device.

    `is_tested` asks the bundled model a question, which takes a few seconds.
    """
    facts, findings = dict(NOTHING_FOUND), list[Finding]()

    def add(key: str, checked: Checked) -> None:
        facts[key], found = checked
        findings.extend(found)

    add("software", checks.check_software())
    add("computer", checks.check_computer())
    is_usable = not facts["software"]["problems"]
    if is_usable:
        from videollava_cli.engine.loading import choose_device, choose_dtype

        chosen = choose_device(settings.device)
        device, dtype = str(chosen), str(choose_dtype(settings.dtype, chosen)).removeprefix("torch.")
        facts |= {"device": device, "dtype": dtype}
        add("graphics", checks.check_graphics(device))
        add("settings_problem", checks.check_settings(settings, device, dtype))
        with ThreadPoolExecutor() as pool:  # child processes try the packages meanwhile
            four_bit = pool.submit(checks.check_four_bit, settings, device, dtype)
            flash_attention = pool.submit(checks.check_flash_attention, settings, facts)
            self_test = checks.check_answer(settings) if is_tested else (None, [])
        add("four_bit", four_bit.result())
        add("flash_attention", flash_attention.result())
        add("video", checks.check_video())
    findings.append(checks.check_ray())
    add("disk", checks.check_disk())
    add("kept", checks.check_quantized_cache())
    if is_usable:
        add("models", check_models(settings, facts))
        add("self_test", self_test)
    return _as_object(settings, facts, findings)


def _as_object(settings: Settings, facts: Mapping[str, Any], findings: list[Finding]) -> dict[str, Any]:
    problems = (finding for finding in findings if finding.mark == "problem")
    reason = next((f"{problem.section}, {problem.subject}: {problem.text}" for problem in problems), None)
    return {
        "vllava": __version__,
        "works": reason is None,
        "reason": reason,
        "settings": {key: getattr(settings, key) for key in (*SETTINGS, "attn_implementation", "max_new_tokens")},
        **facts,
        "findings": [asdict(finding) for finding in findings],
    }


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print a report in 80 columns, and the verdict in one line."""
    from rich.text import Text

    lines = []
    for section, findings in groupby(report["findings"], key=itemgetter("section")):
        lines += [Text(section, "bold"), *(line for finding in findings for line in _lines(finding)), Text()]
    verdict = f"vllava ask with {report['settings']['model']} would "
    verdict += "work here" if report["works"] else f"not work here: {report['reason']}"
    if report["works"] and report["models"][0]["state"] != "whole":
        verdict += ", once its checkpoint is downloaded"
    lines.append(Text(printable(verdict), "bold"))
    screen = console.picture_screen()
    if screen is None:
        console.answer("".join(f"{line.plain}\n" for line in lines))
    else:
        console.draw(screen, *(line.append("\n") for line in lines))


def _lines(finding: Mapping[str, Any]) -> "Iterator[Text]":
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    mark = finding["mark"]
    lines = _wrapped(finding["subject"], COLUMNS - INDENT)
    text = _wrapped(finding["text"], COLUMNS - INDENT - SUBJECT_COLUMNS)
    if len(lines) == 1 and cell_len(lines[0]) < SUBJECT_COLUMNS:  # a longer one has lines of its own
        lines = [set_cell_size(lines[0], SUBJECT_COLUMNS) + text.pop(0)]
    lines += [" " * SUBJECT_COLUMNS + line for line in text]
    yield Text.assemble("  ", (mark, STYLES[mark]), " " * (INDENT - 2 - len(mark)), lines[0])
    yield from (Text(" " * INDENT + line) for line in lines[1:])


def _wrapped(text: str, columns: int) -> list[str]:
    from rich.console import Console as RichConsole
    from rich.text import Text

    # A longer word, such as a path, is broken.
    return [line.plain.rstrip() for line in Text(printable(text)).wrap(RichConsole(width=columns), columns)]
