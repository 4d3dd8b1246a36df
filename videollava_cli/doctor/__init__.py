"""A check-up of this machine: would `vllava ask` work here, and if not, why? What was found, and the report of it."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from videollava_cli import __version__
from videollava_cli.console import Console, printable
from videollava_cli.doctor import checks
from videollava_cli.doctor.checks import Checked, Finding, Mark
from videollava_cli.doctor.models import check_models
from videollava_cli.engine.quantized_cache import cache_folder
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

SETTINGS = ("model", "checkpoint", "revision", "offline", "device", "dtype", "load_4bit", "load_8bit")
# What --json prints where the libraries are not usable, in its order.
NOTHING_FOUND: dict[str, Any] = {
    **dict.fromkeys(("software", "computer", "disk", "kept", "device", "dtype", "settings_problem")),
    "graphics": {"gpus": [], "torch_cuda": None, "driver": None, "cards": [], "problem": None},
    **dict.fromkeys(("four_bit", "flash_attention", "video")),
    "models": [],
    "self_test": None,
}
COLUMNS, MARK_COLUMNS, SUBJECT_COLUMNS = 80, 9, 15
STYLES = {Mark.OK: "green", Mark.NOTE: "yellow", Mark.PROBLEM: "bold red"}


def examine(settings: Settings, *, is_tested: bool) -> dict[str, Any]:
    """Return what was found as the object that --json prints, sizes in bytes; the network is left alone.

    Args:
        settings: Those of the command that is to work.
        is_tested: Whether to ask the bundled model a question, which takes a few seconds.

    Raises:
        UsageError: If the settings name no device.
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
    add("kept", checks.check_quantized_cache(cache_folder()))
    if is_usable:
        add("models", check_models(settings, facts))
        add("self_test", self_test)
    return _as_object(settings, facts, findings)


def _as_object(settings: Settings, facts: Mapping[str, Any], findings: list[Finding]) -> dict[str, Any]:
    problems = (finding for finding in findings if finding.mark is Mark.PROBLEM)
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
    """Print a report to stdout: in 80 columns, but the verdict in one line; in colour on a terminal that has any."""
    from rich.text import Text

    lines = []
    for section, findings in groupby(report["findings"], key=itemgetter("section")):
        lines += [Text(section, "bold"), *(line for finding in findings for line in _lines(finding)), Text()]
    lines.append(Text(printable(_verdict(report)), "bold"))
    screen = console.picture_screen()
    if screen is None:
        console.answer("".join(f"{line.plain}\n" for line in lines))
    else:
        console.draw(screen, *(line.append("\n") for line in lines))


def _verdict(report: Mapping[str, Any]) -> str:
    command = f"vllava ask with {report['settings']['model']}"
    if not report["works"]:
        return f"{command} would not work here: {report['reason']}"
    is_there = report["models"][0]["state"] == "whole"
    return f"{command} would work here{'' if is_there else ', once its checkpoint is downloaded'}"


def _lines(finding: Mapping[str, Any]) -> "Iterator[Text]":
    """Yield the lines of a finding: the mark, the subject, and the text in a column of its own."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    mark, indent = f"  {finding['mark']:{MARK_COLUMNS}}", 2 + MARK_COLUMNS
    subject = _wrapped(finding["subject"], COLUMNS - indent)
    text = _wrapped(finding["text"], COLUMNS - indent - SUBJECT_COLUMNS)
    if len(subject) == 1 and cell_len(subject[0]) < SUBJECT_COLUMNS:
        lines = [set_cell_size(subject[0], SUBJECT_COLUMNS) + text.pop(0)]
    else:  # a long name has lines of its own
        lines = subject
    lines += [" " * SUBJECT_COLUMNS + line for line in text]
    first = Text(mark + lines[0])
    first.stylize(STYLES[finding["mark"]], 2, 2 + len(finding["mark"]))
    yield first
    yield from (Text(" " * indent + line) for line in lines[1:])


def _wrapped(text: str, columns: int) -> list[str]:
    """Return text as lines of so many columns of a terminal; a longer word, such as a path, is broken."""
    from rich.console import Console as RichConsole
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(printable(text)).wrap(RichConsole(width=columns), columns)]
