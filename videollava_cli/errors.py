"""The errors a user can cause, each with its exit status."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the process tells the shell."""

    ANSWERED = 0
    FAILED = 1
    USAGE = 2
    MEDIA = 3
    INCOMPLETE = 4
    CHECKPOINT = 5
    NOTHING_FOUND = 6
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class VllavaError(Exception):
    """Base of all errors that are the user's to mend: one line that says what, the value seen, what to do."""

    status = ExitStatus.FAILED


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: it ends what Ctrl-C ends, and a conversation too."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class when it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


class UsageError(VllavaError):
    """Wrong arguments or settings, or a prompt that does not fit the context."""

    status = ExitStatus.USAGE


class MediaError(VllavaError):
    """A video or image that is missing or cannot be read."""

    status = ExitStatus.MEDIA


class CheckpointError(VllavaError):
    """A checkpoint that cannot be had: unknown, offline, no access, incomplete."""

    status = ExitStatus.CHECKPOINT


class NothingFoundError(VllavaError):
    """Nothing to ask about where media were looked for, or nothing that matches."""

    status = ExitStatus.NOTHING_FOUND


class OutputError(VllavaError):
    """Output that cannot be written, such as on a full disk."""


class OutputClosedError(OutputError):
    """The reader of our output went away, as in `| head -1`: no failure, and nobody reads a message."""

    status = ExitStatus.ANSWERED


class GenerationError(VllavaError):
    """The model or the machine failed while loading or answering, such as out of memory."""


class MemoryFullError(GenerationError):
    """The memory of the device does not suffice for what is asked at once."""
