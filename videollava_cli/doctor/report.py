"""The report of `vllava doctor`: findings as lines for people, facts as an object for programs."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from videollava_cli import __version__
from videollava_cli.console import Console, printable
from videollava_cli.doctor.facts import Facts, Finding, Mark, State
from videollava_cli.doctor.findings import reason_against
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS, MARK_COLUMNS, SUBJECT_COLUMNS = 80, 9, 15
STYLES = {Mark.OK: "green", Mark.NOTE: "yellow", Mark.PROBLEM: "bold red"}
SHOWN_SETTINGS = ("model", "checkpoint", "revision", "offline", "device", "dtype", "load_4bit", "load_8bit")


def last_line(facts: Facts, findings: Sequence[Finding], settings: Settings) -> str:
    """Return whether the default command would work, in a line."""
    command = f"vllava ask with {settings.model}"
    if reason := reason_against(findings):
        return f"{command} would not work here: {reason}"
    is_there = facts.models[0].state is State.WHOLE
    return f"{command} would work here{'' if is_there else ', once its checkpoint is downloaded'}"


def json_report(facts: Facts, findings: Sequence[Finding], settings: Settings) -> dict[str, Any]:
    """Return the report as the object that --json prints; sizes are in bytes."""
    found = asdict(facts)
    if facts.self_test is not None:
        found["self_test"]["is_right"] = facts.self_test.is_right
    for model, its_facts in zip(facts.models, found["models"], strict=True):
        for key, need in (("need", model.need), ("need_4bit", model.need_4bit)):
            its_facts[key] = None if need is None else asdict(need) | {"total": need.total}
    shown = {key: getattr(settings, key) for key in (*SHOWN_SETTINGS, "attn_implementation", "max_new_tokens")}
    reason = reason_against(findings)
    return {
        "vllava": __version__,
        "works": reason is None,
        "reason": reason,
        "settings": shown,
        **found,
        "findings": [asdict(finding) for finding in findings],
    }


def show(findings: Sequence[Finding], verdict: str, console: Console) -> None:
    """Print the report to stdout, in colour if it is a terminal that shows any."""
    rows = [*_rows(findings), (None, ""), (None, verdict)]
    screen = console.picture_screen()
    if screen is None:
        console.answer("".join(f"{line}\n" for _, line in rows))
        return
    console.draw(screen, *(_colored(mark, line) for mark, line in rows))


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[Mark | None, str]]:
    """Yield the report's lines, wrapped; with the mark that a line begins with, or none."""
    for number, (section, its_findings) in enumerate(groupby(findings, key=lambda finding: finding.section)):
        if number:
            yield None, ""
        yield None, section
        for finding in its_findings:
            first, *others = _wrapped(finding)
            yield finding.mark, first
            yield from ((None, line) for line in others)


def _wrapped(finding: Finding) -> list[str]:
    """Return a finding as lines: the mark, what it is about, and the text in a column of its own."""
    head = f"  {finding.mark:{MARK_COLUMNS}}{finding.subject:{SUBJECT_COLUMNS}}"
    indent = " " * (2 + MARK_COLUMNS + SUBJECT_COLUMNS)
    if len(head) > len(indent) or not head.endswith(" "):
        head += "\n" + indent  # a long name has a line of its own
    body = textwrap.wrap(printable(finding.text), COLUMNS - len(indent), break_long_words=False, break_on_hyphens=False)
    return (head + f"\n{indent}".join(body)).splitlines()


def _colored(mark: Mark | None, line: str) -> "Text":
    from rich.text import Text

    colored = Text(f"{line}\n")
    if mark is not None:
        colored.stylize(STYLES[mark], 2, 2 + len(mark))
    elif line and not line.startswith(" "):
        colored.stylize("bold")
    return colored
