"""`vllava batch`: the same questions about many media, as JSON lines."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from videollava_cli.batch.pipeline import Job, list_items, run
from videollava_cli.batch.ray import ADDRESS, LOCAL, answer_on_ray, check_address
from videollava_cli.batch.work import (
    STDIN,
    Item,
    Shard,
    find_items,
    read_list,
    read_questions,
    with_stamps,
    without_repetitions,
)
from videollava_cli.commands import options as opt
from videollava_cli.console import Console
from videollava_cli.errors import ExitStatus, UsageError
from videollava_cli.prompt import Turn
from videollava_cli.settings import Settings

BATCH_EXAMPLES = """\b
Examples:
  vllava batch clips/ -q "What happens?" -o answers.jsonl      run it again to go on
  vllava batch clips/ --glob '*.mp4' -q "What happens?" -q "Who is there?" > answers.jsonl
  find . -name '*.mp4' -print0 | vllava batch --from-file - -0 -q "What happens?" | jq -r .answer
  vllava batch --questions questions.jsonl -o answers.jsonl    a question for each clip
  vllava batch clips/ -q "What happens?" -o part-2.jsonl --shard 2/8
"""


@opt.command(takes=(*opt.QUESTION, *opt.MODEL, *opt.ANSWER, *opt.CLIP, *opt.OUTPUT))
def batch(
    settings: Settings,
    console: Console,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Videos, images, folders of them, URLs.", show_default=False),
    ] = None,
    from_file: Annotated[
        str | None,
        opt.option("A file that lists media, one a line; - is stdin.", "Work", "--from-file", metavar="LIST|-"),
    ] = None,
    null: Annotated[bool, opt.option("The list is NUL-separated, as of find -print0.", "Work", "-0", "--null")] = False,
    glob: Annotated[
        list[str] | None,
        opt.option(
            "Take such files of folders only, '*.mp4' say; repeat it for more.", "Work", "--glob", metavar="PATTERN"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        opt.option(
            "Do the I-th of N parts of the work, chosen by a hash of each path.", "Work", "--shard", metavar="I/N"
        ),
    ] = None,
    ray: Annotated[
        str | None,
        opt.option(
            "Spread the work over a Ray: one of its own here, or that at HOST:PORT or auto.",
            "Work",
            "--ray",
            metavar="[ADDRESS]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, opt.option("List what would be asked, as JSON lines, and ask nothing.", "Work", "--dry-run")
    ] = False,
    question: opt.Questions = None,
    questions_file: Annotated[
        str | None,
        opt.option(
            'Questions, one a line; or JSON lines {"path", "question", "id"?}, for each clip its own.',
            "Question",
            "--questions",
            metavar="FILE|-",
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        opt.option("Questions answered at once. Default: auto, what fits", "Answer", "--batch-size", metavar="N|auto"),
    ] = None,
    output: Annotated[
        Path | None,
        opt.option(
            "Append to this file, and skip what it holds already.", "Output", "-o", "--output", metavar="OUT.jsonl"
        ),
    ] = None,
    redo_failed: Annotated[bool, opt.option("Ask again what failed before.", "Output", "--redo-failed")] = False,
    overwrite: Annotated[bool, opt.option("Empty the file first.", "Output", "--overwrite")] = False,
    unordered: Annotated[
        bool, opt.option("Write lines as they come, not in the order of the media.", "Output", "--unordered")
    ] = False,
    json_summary: Annotated[
        Path | None,
        opt.option("Write the counts and seconds to this file.", "Output", "--json-summary", metavar="FILE"),
    ] = None,
) -> ExitStatus:
    """Answer questions about folders of videos and images: one JSON line each.

    Folders are searched to their bottom; what is a video or an image is told by content, and the rest is passed over.
    What fails gets a line that says why. With -o the same command, run again, goes on where it was stopped.
    As many clips are read at once as there are processors, which they share; --decode-threads gives each its own.
    """
    part = Shard.parse(shard) if shard else None
    if ray is not None:
        check_address(ray)
    max_num_seqs = parse_batch_size(batch_size)
    check_output(output, json_summary, redo_failed=redo_failed, is_fresh=overwrite)
    items, common_questions = asked_items(
        paths or [],
        question or [],
        questions_file=questions_file,
        from_file=from_file,
        is_null_separated=null,
        patterns=glob or [],
    )
    kept, num_repeated = without_repetitions(item for item in items if part is None or part.holds(item.name))
    if num_repeated:
        console.notice(f"{num_repeated:,} repeated item{'s are' if num_repeated > 1 else ' is'} asked once")
    job = Job(
        items=with_stamps(kept),
        common_questions=common_questions,
        settings=settings,
        output=output,
        redo_failed=redo_failed,
        is_fresh=overwrite,
        is_ordered=not unordered,
        batch_size=max_num_seqs,
        summary=json_summary,
        ray=ray,
    )
    return list_items(job, console) if dry_run else run(job, console, answer_on_ray)


class RayCommand(TyperCommand):
    """A command with `--ray [ADDRESS]`: Typer has no options whose value may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill in the address of a bare `--ray`, and parse."""
        return super().parse_args(ctx, with_address(args))


def with_address(arguments: list[str]) -> list[str]:
    """Return arguments whose `--ray`, unless an address follows, has that of a cluster of our own."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [
        f"--ray={LOCAL}"
        if word == "--ray" and number < end and not ADDRESS.fullmatch((*arguments, "")[number + 1])
        else word
        for number, word in enumerate(arguments)
    ]


def asked_items(
    paths: Sequence[str],
    questions: Sequence[str],
    *,
    questions_file: str | None,
    from_file: str | None,
    is_null_separated: bool,
    patterns: Sequence[str],
) -> tuple[list[Item], tuple[str, ...]]:
    """Return the items that a command line names, and the questions that it asks about every medium."""
    if STDIN in paths:
        raise UsageError("'-' is no medium here: --from-file - reads a list of media from stdin")
    if from_file == questions_file == STDIN:
        raise UsageError("--from-file and --questions cannot both be read from stdin: save one of them")
    if is_null_separated and from_file is None:
        raise UsageError("-0 says how a list is separated: add --from-file LIST, or - for stdin")
    asked = list(questions)
    if questions_file is not None:
        read = read_questions(questions_file)
        items = [item for item in read if isinstance(item, Item)]
        if items and (paths or from_file is not None or asked):
            raise UsageError(f"the lines of {questions_file!r} name media and questions: leave others out")
        if items:
            return items, ()
        asked += [text for text in read if isinstance(text, str)]
    if not asked:
        raise UsageError('a question is needed: vllava batch clips/ -q "What happens in this video?"')
    if not paths and from_file is None:
        raise UsageError('media are needed: vllava batch clips/ -q "What happens in this video?"')
    for text in asked:
        Turn(text)
    listed = [] if from_file is None else read_list(from_file, is_null_separated=is_null_separated)
    return list(find_items([*paths, *listed], asked, patterns)), tuple(asked)


def parse_batch_size(text: str | None) -> int | None:
    """Return how many questions to answer at once, None to find out; raises UsageError."""
    if text is None or text == "auto":
        return None
    if not text.isdecimal() or not 0 < int(text) <= 1 << 16:
        raise UsageError(f"batch size is {text!r}: give auto, or a number from 1 on")
    return int(text)


def check_output(output: Path | None, summary: Path | None, *, redo_failed: bool, is_fresh: bool) -> None:
    """Refuse, before anything is searched, what cannot be written, and options that mean nothing without a file."""
    if output is None and (redo_failed or is_fresh):
        raise UsageError(f"{'--redo-failed' if redo_failed else '--overwrite'} is about a file: add -o OUT.jsonl")
    if redo_failed and is_fresh:
        raise UsageError("--redo-failed and --overwrite exclude each other: overwriting asks everything again")
    if output is not None and summary is not None and os.path.abspath(output) == os.path.abspath(summary):
        raise UsageError(f"-o and --json-summary are both {str(output)!r}: give two names")
    for path in filter(None, (output, summary)):
        if path.is_dir():
            raise UsageError(f"cannot write {str(path)!r}: it is a folder")
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=RayCommand, epilog=BATCH_EXAMPLES, no_args_is_help=True)(batch)
