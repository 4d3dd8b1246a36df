"""`vllava doctor`: what this machine can run, and what is missing."""

import json
from typing import Annotated

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console
from videollava_cli.errors import ExitStatus, UsageError

EXAMPLES = """\b
Examples:
  vllava doctor                       would `vllava ask` work here?
  vllava doctor -m 7b-4bit            and with this model?
  vllava doctor --no-self-test        without asking tiny: quicker
  vllava doctor --json | jq .works
"""


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
    # What looks at the machine is imported here: other commands start without it.
    from videollava_cli.doctor import examine, show

    own = ("self_test", "flash_attn", "json_object", "quiet", "config")
    flags: dict[str, object] = {key: value for key, value in given.items() if key not in own}
    if flash_attn:
        if attn_implementation not in (None, "flash_attention_2"):
            raise UsageError(f"--flash-attn and --attn-implementation {attn_implementation} exclude each other")
        flags["attn_implementation"] = "flash_attention_2"
    settings = opt.settings_from(flags, config)
    console = Console(is_quiet=quiet)
    with console.status("Looking at this machine"):
        report = examine(settings, is_tested=self_test)
    if json_object:
        console.answer(json.dumps(report, ensure_ascii=False) + "\n")
    else:
        show(report, console)
    return ExitStatus.ANSWERED if report["works"] else ExitStatus.FAILED
