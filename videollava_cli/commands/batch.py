"""`vllava batch`: the same questions about many media, as JSON lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from videollava_cli.batch.lines import is_summary
from videollava_cli.batch.output import is_results
from videollava_cli.batch.pipeline import Job, list_items, run
from videollava_cli.batch.ray import ADDRESS, LOCAL, answer_on_ray, check_address
from videollava_cli.batch.work import (
    STDIN,
    Item,
    Shard,
    file_stamp,
    find_items,
    may_be_no_medium,
    read_list,
    read_questions,
    with_stamps,
    without_repetitions,
)
from videollava_cli.commands import options as opt
from videollava_cli.commands.arguments import media_and_questions
from videollava_cli.console import Console
from videollava_cli.errors import ExitStatus, UsageError
from videollava_cli.output_file import check_output, is_same_file
from videollava_cli.process import callers_path
from videollava_cli.prompt import Turn
from videollava_cli.settings import Settings

MAX_NAMED = 3  # folders in a message
BATCH_EXAMPLES = """\b
Examples:
  vllava batch clips/ -q "What happens?" -o out.jsonl  # again: goes on
  vllava batch clips/ --glob '*.mp4' -q "What happens?" -q "Who is there?"
  find . -name '*.mp4' -print0 | vllava batch --from-file - -0 -q "Who?"
  vllava batch --questions questions.jsonl -o out.jsonl  # one for each clip
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
    check_options(output, json_summary, redo_failed=redo_failed, is_fresh=overwrite)
    media, questions = list(paths or []), list(question or [])
    if questions_file is None:
        media, questions = media_and_questions(media, questions, console)
    items, common_questions, fruitless = asked_items(
        media,
        questions,
        questions_file=questions_file,
        from_file=from_file,
        is_null_separated=null,
        patterns=glob or [],
    )
    is_any = bool(items)
    items = with_stamps([item for item in items if part is None or part.holds(item.name)])
    check_outputs(output, json_summary, items, [name for name in (from_file, questions_file) if name])
    kept, num_repeated = without_repetitions(items)
    without_files = no_files(fruitless, glob or []) if fruitless else None
    if without_files and is_any:
        console.notice(without_files)
    if num_repeated:
        console.notice(f"{num_repeated:,} repeated item{'s are' if num_repeated > 1 else ' is'} asked once")
    job = Job(
        items=kept,
        common_questions=common_questions,
        settings=settings,
        output=output and callers_path(output),
        redo_failed=redo_failed,
        is_fresh=overwrite,
        is_ordered=not unordered,
        batch_size=max_num_seqs,
        summary=json_summary and callers_path(json_summary),
        ray=ray,
        nothing_found=None if is_any else without_files,
        is_part=part is not None,
    )
    return list_items(job, console) if dry_run else run(job, console, answer_on_ray)


class RayCommand(opt.HelpCommand):
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
) -> tuple[list[Item], tuple[str, ...], list[str]]:
    """Return the items that a command line names, the questions about every medium, and the fruitless folders."""
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
            return items, (), []
        asked += [text for text in read if isinstance(text, str)]
    if not asked:
        raise UsageError('a question is needed: vllava batch clips/ -q "What happens in this video?"')
    if not paths and from_file is None:
        raise UsageError('media are needed: vllava batch clips/ -q "What happens in this video?"')
    for text in asked:
        Turn(text)
    listed = [] if from_file is None else read_list(from_file, is_null_separated=is_null_separated)
    named = [*paths, *listed]
    items, fruitless = find_items(named, asked, patterns)
    return items, tuple(asked), fruitless if items else named


def no_files(folders: Sequence[str], patterns: Sequence[str]) -> str:
    """Say that folders have no file that counts."""
    names = ", ".join(map(repr, folders[:MAX_NAMED]))
    more = f" and {len(folders) - MAX_NAMED:,} more" if len(folders) > MAX_NAMED else ""
    if patterns:
        return f"nothing found in {names}{more}: no file matches --glob {' '.join(map(repr, patterns))}"
    return f"nothing found in {names}{more}: no files, hidden ones apart"


def parse_batch_size(text: str | None) -> int | None:
    """Return how many questions to answer at once, None to find out; raises UsageError."""
    if text is None or text == "auto":
        return None
    if not text.isdecimal() or not 0 < int(text) <= 1 << 16:
        raise UsageError(f"batch size is {text!r}: give auto, or a number from 1 on")
    return int(text)


def check_options(output: Path | None, summary: Path | None, *, redo_failed: bool, is_fresh: bool) -> None:
    """Refuse, before anything is searched, options that mean nothing without a file, and one file for two purposes."""
    if output is None and (redo_failed or is_fresh):
        raise UsageError(f"{'--redo-failed' if redo_failed else '--overwrite'} is about a file: add -o OUT.jsonl")
    if redo_failed and is_fresh:
        raise UsageError("--redo-failed and --overwrite exclude each other: overwriting asks everything again")
    if output is not None and summary is not None and is_same_file(output, summary):
        raise UsageError(f"-o and --json-summary are both {str(output)!r}: give two names")


def check_outputs(output: Path | None, summary: Path | None, items: Sequence[Item], lists: Sequence[str]) -> None:
    """Refuse, before anything is asked, outputs that cannot be written or would replace something else."""
    for path, form, is_in_form in (
        (output, "results of a batch", is_results),
        (summary, "summary of a batch", is_summary),
    ):
        if path is not None:
            stamp = file_stamp(str(path))  # what has another one is another file, so it is not looked up again
            media = (item.path for item in items if item.stamp == stamp and not may_be_no_medium(item))
            check_output(path, form, is_in_form, [*lists, *media])


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=RayCommand, epilog=BATCH_EXAMPLES, no_args_is_help=True)(batch)
