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
from videollava_cli.errors import ExitStatus, UsageError
from videollava_cli.prompt import Turn

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


def batch(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Videos, images, folders of them, URLs.", show_default=False),
    ] = None,
    from_file: opt.FromFile = None,
    null: opt.Null = False,
    glob: opt.Glob = None,
    shard: opt.Shard = None,
    ray: opt.Ray = None,
    dry_run: opt.DryRun = False,
    question: opt.Questions = None,
    questions_file: opt.QuestionsFile = None,
    system: opt.System = None,
    prompt_style: opt.PromptStyle = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    offline: opt.Offline = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    load_4bit: opt.Load4bit = None,
    load_8bit: opt.Load8bit = None,
    cache: opt.Cache = None,
    flash_attn: opt.FlashAttn = False,
    attn_implementation: opt.AttnImplementation = None,
    batch_size: opt.BatchSize = None,
    max_new_tokens: opt.MaxNewTokens = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    top_k: opt.TopK = None,
    repetition_penalty: opt.RepetitionPenalty = None,
    seed: opt.Seed = None,
    start: opt.Start = None,
    end: opt.End = None,
    at: opt.At = None,
    decode_threads: opt.DecodeThreads = None,
    fit: opt.Fit = None,
    output: opt.Lines = None,
    redo_failed: opt.RedoFailed = False,
    overwrite: opt.Overwrite = False,
    unordered: opt.Unordered = False,
    json_summary: opt.JsonSummary = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    config: opt.Config = None,
) -> ExitStatus:
    """Answer questions about folders of videos and images: one JSON line each.

    Folders are searched to their bottom; what is a video or an image is told by content, and the rest is passed over.
    What fails gets a line that says why. With -o the same command, run again, goes on where it was stopped.
    As many clips are read at once as there are processors, which they share; --decode-threads gives each its own.
    """
    given = dict(locals())
    own = {"paths", "from_file", "null", "glob", "shard", "ray", "dry_run", "question", "questions_file", "flash_attn"}
    own |= {"batch_size", "output", "redo_failed", "overwrite", "unordered", "json_summary", "quiet", "verbose"}
    flags: dict[str, object] = {key: value for key, value in given.items() if key not in {*own, "config"}}
    if flash_attn:
        if attn_implementation not in (None, "flash_attention_2"):
            raise UsageError(f"--flash-attn and --attn-implementation {attn_implementation} exclude each other")
        flags["attn_implementation"] = "flash_attention_2"
    part = Shard.parse(shard) if shard else None
    if ray is not None:
        check_address(ray)
    rows_at_once = parse_batch_size(batch_size)
    check_output(output, json_summary, redo_failed=redo_failed, is_fresh=overwrite)
    settings = opt.settings_from(flags, config)
    items, questions = work(Named(paths or [], question or [], questions_file, from_file, null, glob or []))
    kept, num_repeated = without_repetitions(item for item in items if part is None or part.holds(item.source.path))
    console = Console(is_quiet=quiet, is_verbose=verbose)
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
