"""`vllava doctor`: what this machine can run, and what is missing."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videollava_cli import __version__
from videollava_cli.commands import options as opt
from videollava_cli.console import Console, printable
from videollava_cli.doctor import examine
from videollava_cli.doctor.facts import Facts, Finding, Mark
from videollava_cli.doctor.findings import find, reason_against
from videollava_cli.errors import ExitStatus, UsageError
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

EXAMPLES = """\b
Examples:
  vllava doctor                       would `vllava ask` work here?
  vllava doctor -m 7b-4bit            and with this model?
  vllava doctor --no-self-test        without asking tiny: quicker
  vllava doctor --json | jq .works
"""
COLUMNS, MARK_COLUMNS, SUBJECT_COLUMNS = 80, 9, 15
STYLES = {Mark.OK: "green", Mark.NOTE: "yellow", Mark.PROBLEM: "bold red"}
SHOWN_SETTINGS = ("model", "checkpoint", "revision", "offline", "device", "dtype", "load_4bit", "load_8bit")


def doctor(
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test/--no-self-test",
            help="Ask tiny a question whose answer is known (default), or do not.",
            rich_help_panel=opt.WORK,
            show_default=False,
        ),
    ] = True,
    model: opt.Model = None,
    revision: opt.Revision = None,
    offline: opt.Offline = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    load_4bit: opt.Load4bit = None,
    load_8bit: opt.Load8bit = None,
    flash_attn: opt.FlashAttn = False,
    attn_implementation: opt.AttnImplementation = None,
    max_new_tokens: opt.MaxNewTokens = None,
    json_object: opt.JsonObject = False,
    quiet: opt.Quiet = False,
    config: opt.Config = None,
) -> ExitStatus:
    """Tell what this machine can run, and what is missing.

    Exit status 0: vllava ask would work, with your settings and these options.
    Its packages load, the settings suit the machine, the model has room in
    the memory that is free now, and tiny answers as it should. A checkpoint
    that is not there may be downloaded and has room on the disk: whether the
    network is there is not tried. Else it is 1, and the last line says why.

    A problem keeps vllava ask from working; a note is worth knowing.
    """
    given = dict(locals())
    own = ("self_test", "flash_attn", "json_object", "quiet", "config")
    flags: dict[str, object] = {key: value for key, value in given.items() if key not in own}
    if flash_attn:
        if attn_implementation not in (None, "flash_attention_2"):
            raise UsageError(f"--flash-attn and --attn-implementation {attn_implementation} exclude each other")
        flags["attn_implementation"] = "flash_attention_2"
    settings = opt.settings_from(flags, config)
    console = Console(is_quiet=quiet)
    with console.status("Looking at this machine"):
        facts = examine(settings, is_tested=self_test)
    findings = find(facts, settings)
    if json_object:
        console.answer(json.dumps(json_report(facts, findings, settings), ensure_ascii=False) + "\n")
    else:
        show(findings, last_line(findings, settings), console)
    return ExitStatus.ANSWERED if reason_against(findings) is None else ExitStatus.FAILED


def last_line(findings: Sequence[Finding], settings: Settings) -> str:
    """Return whether the default command would work, in a line."""
    command = f"vllava ask with {settings.model}"
    reason = reason_against(findings)
    return f"{command} would work here" if reason is None else f"{command} would not work here: {reason}"


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
