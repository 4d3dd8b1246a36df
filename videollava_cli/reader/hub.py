"""The Hugging Face hub: fetching a file, and what goes wrong there in words that people know."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videollava_cli.errors import MediaError
from videollava_cli.reader.web import network_problem, status_problem


def fetch_file(source: str, *, offline: bool) -> Path:
    """Fetch `hf://[datasets/|spaces/]owner/repo[@revision]/path` through huggingface_hub's cache."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    parts = source.partition("://")[2].split("/")
    kind = parts.pop(0).removesuffix("s") if parts[0] in ("datasets", "spaces") else "model"
    if len(parts) < 3 or not all(parts):
        raise MediaError(f"{source!r} is no file on the hub: write hf://[datasets/]owner/repo/path")
    name, _, revision = parts[1].partition("@")
    repo, filename = f"{parts[0]}/{name}", "/".join(parts[2:])
    place = {"repo_id": repo, "filename": filename, "repo_type": kind, "revision": revision or None}
    unreachable: Exception | None = None
    try:
        with quiet_hub():
            unreachable = None if offline else _connection_error(place)
            return Path(hf_hub_download(**place, local_files_only=offline or unreachable is not None))  # type: ignore[call-overload]
    except (hub.HTTPError, hub.EntryNotFoundError, OSError, ValueError, RuntimeError) as error:  # type: ignore[attr-defined]
        problem = hub_problem(unreachable or error, repo, kind=kind, revision=revision or None, offline=offline)
        raise MediaError(f"cannot fetch {source}: {problem}") from error


def _connection_error(place: dict[str, str | None]) -> Exception | None:
    """Return why the hub cannot be reached, or None: `hf_hub_download` would try for 23 seconds."""
    from huggingface_hub import errors as hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(**place))  # type: ignore[arg-type]
    except hub.HfHubHTTPError:  # `hf_hub_download` tries again what may pass, and looks into the cache
        return None
    except (hub.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        return error
    return None


def hub_problem(
    error: BaseException,
    repo: str,
    *,
    kind: str,
    revision: str | None,
    offline: bool,
    named: str = "it",
    instead: str = "",
) -> str:
    """Say why the hub's client gave nothing of a repository.

    `kind` is what the repository should be, `named` what was wanted of it; `instead` ends the advice.
    """
    from huggingface_hub import errors as hub

    match error:
        case hub.GatedRepoError():
            return f"no access to {repo!r}: accept its terms on the hub, then `hf auth login`"
        case hub.RevisionNotFoundError():
            return f"{repo!r} has no revision {revision!r}: check its name on the hub"
        case hub.RepositoryNotFoundError():
            return f"no {kind} {repo!r} on the hub, or no access to it: check its name, or `hf auth login`"
        case hub.HFValidationError():
            return f"{repo!r} is no name of a repository: write owner/name"
        case hub.OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set, and {named} is not in the local cache: unset it once{instead}"
        case hub.LocalEntryNotFoundError() if offline:
            return f"offline, and {named} is not in the local cache: run once without --offline{instead}"
        case hub.LocalEntryNotFoundError() if error.__cause__ is not None:
            return hub_problem(
                *(error.__cause__, repo), kind=kind, revision=revision, offline=False, named=named, instead=instead
            )
        case hub.EntryNotFoundError():
            return f"{repo!r} has no such file: check its path on the hub"
        case hub.HfHubHTTPError():
            return status_problem(error.response.status_code) + instead
        case hub.HTTPError():  # type: ignore[attr-defined]
            problem = network_problem(error)
            return f"{named} is not in the local cache and the hub cannot be reached; {problem}{instead}"
        case OSError() if error.strerror:
            return f"{error.strerror}: HF_HOME names the folder of the cache"
        case _:  # of hf_xet
            return f"{network_problem(error)}{instead}"


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep what huggingface_hub logs off the terminal: what matters of it is said in our own line."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
