"""`vllava batch`: the same questions about many media, as JSON lines."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from videollava_cli.batch import Item
from videollava_cli.batch.cluster import check_address
from videollava_cli.batch.folders import find_files
from videollava_cli.batch.lists import STDIN, read_list, read_questions
from videollava_cli.batch.run import Job, list_items, run
from videollava_cli.batch.worklist import Shard, items_about, stamped, without_repetitions
from videollava_cli.commands import options as opt
from videollava_cli.console import Console
from videollava_cli.conversation import Turn
from videollava_cli.errors import ExitStatus, UsageError
from videollava_cli.settings import Settings

BATCH_EXAMPLES = """\b
Examples:
  vllava batch clips/ -q "What happens?" -o answers.jsonl      run it again to go on
  vllava batch clips/ --glob '*.mp4' -q "What happens?" -q "Who is there?" > answers.jsonl
  find . -name '*.mp4' -print0 | vllava batch --from-file - -0 -q "What happens?" | jq -r .answer
  vllava batch --questions questions.jsonl -o answers.jsonl    a question for each clip
  vllava batch clips/ -q "What happens?" -o part-2.jsonl --shard 2/8
"""


@dataclass(frozen=True, slots=True)
class Named:
    """What the command line names: media in three ways, and questions in two."""

    paths: Sequence[str]
    questions: Sequence[str]
    questions_file: str | None
    from_file: str | None
    is_null_separated: bool
    patterns: Sequence[str]


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
    rows_at_once = parse_batch_size(batch_size)
    check_output(output, json_summary, redo_failed=redo_failed, is_fresh=overwrite)
    items, questions = work(Named(paths or [], question or [], questions_file, from_file, null, glob or []))
    kept, num_repeated = without_repetitions(item for item in items if part is None or part.holds(item.source.path))
    if num_repeated:
        console.notice(f"{num_repeated:,} repeated item{'s are' if num_repeated > 1 else ' is'} asked once")
    job = Job(
        items=stamped(kept),
        common_questions=questions,
        settings=settings,
        output=output,
        redo_failed=redo_failed,
        is_fresh=overwrite,
        is_ordered=not unordered,
        batch_size=rows_at_once,
        summary=json_summary,
        ray=ray,
    )
    return list_items(job, console) if dry_run else run(job, console)


def work(named: Named) -> tuple[list[Item], tuple[str, ...]]:
    """Return the items that are named, and the questions that are asked about every medium, if they are.

    Raises:
        UsageError: If media or questions are missing, or come in ways that exclude each other.
    """
    if STDIN in named.paths:
        raise UsageError("'-' is no medium here: --from-file - reads a list of media from stdin")
    if named.from_file == named.questions_file == STDIN:
        raise UsageError("--from-file and --questions cannot both be read from stdin: save one of them")
    if named.is_null_separated and named.from_file is None:
        raise UsageError("-0 says how a list is separated: add --from-file LIST, or - for stdin")
    asked = list(named.questions)
    if named.questions_file is not None:
        read = read_questions(named.questions_file)
        if read and isinstance(read[0], Item):
            if named.paths or named.from_file is not None or asked:
                raise UsageError(f"the lines of {named.questions_file!r} name media and questions: leave others out")
            return [item for item in read if isinstance(item, Item)], ()
        asked += [text for text in read if isinstance(text, str)]
    if not asked:
        raise UsageError('a question is needed: vllava batch clips/ -q "What happens in this video?"')
    if not named.paths and named.from_file is None:
        raise UsageError('media are needed: vllava batch clips/ -q "What happens in this video?"')
    for text in asked:
        Turn(text)
    listed = [] if named.from_file is None else read_list(named.from_file, is_null_separated=named.is_null_separated)
    sources = find_files([*named.paths, *listed], named.patterns)
    return list(items_about(sources, asked)), tuple(asked)


def parse_batch_size(text: str | None) -> int | None:
    """Return how many questions to answer at once; None to find out.

    Raises:
        UsageError: If it is neither a number above 0 nor `auto`.
    """
    if text is None or text == "auto":
        return None
    if not text.isdecimal() or not 0 < int(text) <= 1 << 16:
        raise UsageError(f"batch size is {text!r}: give auto, or a number from 1 on")
    return int(text)


def check_output(output: Path | None, summary: Path | None, *, redo_failed: bool, is_fresh: bool) -> None:
    """Refuse, before anything is searched, what cannot be written, and options that mean nothing without a file.

    Raises:
        UsageError: If a folder is missing, a name is a folder's, or -o is missing.
    """
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
