"""Which words of a command line are media, and which are a question that is not quoted or stands in another place."""

import os
from collections.abc import Sequence

from videollava_cli.console import Console
from videollava_cli.errors import UsageError
from videollava_cli.media import MEDIA_SUFFIXES
from videollava_cli.reader.urls import local_path


def names_medium(word: str) -> bool:
    """Return whether a word can be a medium's name: it is there, a URL or `-`, or ends as media do."""
    path = os.path.expanduser(local_path(word))
    return word == "-" or "://" in word or os.path.lexists(path) or word.lower().endswith(MEDIA_SUFFIXES)


def is_like_question(text: str) -> bool:
    """Return whether a text is a question for certain: it names no medium and ends in a question mark or has blanks."""
    return not names_medium(text) and (text.rstrip().endswith("?") or " " in text.strip())


def media_and_questions(
    words: Sequence[str], questions: Sequence[str], console: Console
) -> tuple[list[str], list[str]]:
    """Return media and questions: those of -q, or else one among the words where that is unmistakable."""
    if questions:
        check_media(words, "with -q, give each question its own -q")
        return list(words), list(questions)
    media, taken = taken_question(words, console)
    return media, [] if taken is None else [taken]


def taken_question(words: Sequence[str], console: Console) -> tuple[list[str], str | None]:
    """Return the media and the question of words, the question last, unquoted, or first where that is unmistakable.

    None stands for no such question. A notice says how a question is understood that was written in another way.
    """
    are_media = [names_medium(word) for word in words]
    if not any(are_media) or all(are_media):
        return list(words), None
    first, last = are_media.index(True), len(words) - are_media[::-1].index(True)  # of the media
    for run, media in ((words[last:], words[:last]), (words[:first], words[first:])):
        question = " ".join(run)
        is_plain = len(run) == 1 or not any(set(word) & set(" \t\n") for word in run)  # a quoted word is whole
        is_last = run and media == words[:last]
        if is_plain and len(media) == sum(are_media) and (is_last or is_like_question(question)):
            if len(run) > 1 or not is_last:
                console.notice(f"the question is taken to be {question!r}: write it last, in quotes")
            return list(media), question
    return list(words), None


def check_media(words: Sequence[str], advice: str) -> None:
    """Refuse by a UsageError a question in a place where only media stand; `advice` says where it belongs."""
    for word in words:
        if not names_medium(word) and word.rstrip().endswith("?"):
            raise UsageError(f"{word!r} stands where media are named: {advice}")
