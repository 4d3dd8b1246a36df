"""A check-up of this machine: whether `vllava ask` would work here, and if not, why not."""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Any

from videollava_cli import __version__
from videollava_cli.console import Console, printable
from videollava_cli.doctor import checks
from videollava_cli.doctor.checks import Checked, Finding
from videollava_cli.doctor.models import MEMORY, check_models, find_size
from videollava_cli.settings import Settings

MODEL = ("model", "checkpoint", "revision", "offline", "device", "dtype", "load_4bit", "load_8bit")
SETTINGS = (*MODEL, "attn_implementation", "max_new_tokens")
# The keys of --json in their order, as they stay where the packages are not usable.
NOTHING_FOUND: dict[str, Any] = {
    **dict.fromkeys(("software", "computer", "disk", "kept", "device", "dtype", "settings_problem")),
    "graphics": {"gpus": [], "torch_cuda": None, "driver": None, "cards": [], "problem": None},
    **dict.fromkeys(("four_bit", "flash_attention", "video")),
    "models": [],
    "self_test": None,
}
COLUMNS, INDENT, SUBJECT_COLUMNS = 80, 11, 15
COMMAND_COLUMNS, NAME_COLUMNS = 75, 22
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
        facts |= checks.chosen_device(settings, find_size(settings))
        add("graphics", checks.check_graphics(facts["device"]))
        add("settings_problem", checks.check_settings(settings, facts))
        with ThreadPoolExecutor() as pool:  # child processes try the packages meanwhile
            four_bit = pool.submit(checks.check_four_bit, settings, facts)
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
    problem = next((finding for finding in findings if finding.mark == "problem"), None)
    return {
        "vllava": __version__,
        "works": problem is None,
        "reason": problem and f"{problem.section}, {problem.subject}: {problem.text}",
        "run": what_to_run(facts, problem),
        "settings": {key: getattr(settings, key) for key in SETTINGS},
        **facts,
        "findings": [asdict(finding) for finding in findings],
    }


def what_to_run(facts: Mapping[str, Any], problem: Finding | None) -> str:
    """Return the command that gets on from here, in at most 75 columns."""
    asked, again = 'clip.mp4 "What happens?"', "vllava doctor, once more, when that is mended"
    if not facts["models"]:
        command = problem.text.rpartition(": ")[2] if problem else ""
        return command if command.startswith("pip ") and len(command) <= COMMAND_COLUMNS else again
    model = facts["models"][0]
    name = shlex.quote(model["name"]) if len(model["name"]) <= NAME_COLUMNS else "MODEL"
    if problem is None and model["state"] != "whole":
        return f"vllava models pull {name}"
    fits_in_4_bits = problem is not None and problem.section == MEMORY and model["fit"] == "fits_with_load_4bit"
    if problem is None or fits_in_4_bits:
        flag = " --load-4bit" if fits_in_4_bits or model["load_4bit"] else ""
        return f"vllava ask -m {name}{flag} {asked}"
    is_tiny_wrong = facts["self_test"] is not None and not facts["self_test"]["is_right"]
    return again if is_tiny_wrong or name == "tiny" else f"vllava ask -m tiny {asked}"


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print a report in 80 columns, the verdict in one line, and in the last one what to run."""
    from rich.console import Console as RichConsole
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.table import Column, Table
    from rich.text import Text

    parts: list[Table | Text] = []
    for section, findings in groupby(report["findings"], key=itemgetter("section")):
        table = Table.grid(Column(width=INDENT), Column(width=SUBJECT_COLUMNS), Column(overflow="fold"))
        for finding in findings:
            subject, text = Text(printable(finding["subject"])), Text(printable(finding["text"]))
            if subject.cell_len >= SUBJECT_COLUMNS:  # such as a folder
                subject, text = Text(), Text.assemble(subject, ": ", text)
            table.add_row(Text.assemble("  ", (finding["mark"], STYLES[finding["mark"]])), subject, text)
        parts += [Text(section, "bold"), table, Text()]
    verdict = f"vllava ask with {report['settings']['model']} would "
    verdict += "work here" if report["works"] else f"not work here: {report['reason']}"
    if report["works"] and report["models"][0]["state"] != "whole":
        verdict += ", once its checkpoint is downloaded"
    run = printable(f"Run: {report['run']}")
    screen = console.picture_screen()
    if screen is None:
        page = RichConsole(width=COLUMNS, color_system=None)
        with page.capture() as printed:
            page.print(Group(*parts), end="")
        lines = (*printed.get().split("\n")[:-1], printable(verdict), run)
        console.answer("".join(f"{line.rstrip()}\n" for line in lines))
    else:
        console.draw(screen, Constrain(Group(*parts), COLUMNS), Text(f"{printable(verdict)}\n{run}\n", "bold"))
