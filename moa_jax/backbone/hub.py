"""Download from the Hugging Face hub, and say in words why a download failed.

`huggingface_hub` does the work, with its own cache, tokens and variables (HF_TOKEN, HF_HUB_OFFLINE,
HF_ENDPOINT, HF_HUB_CACHE). Nothing here knows what the files are.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moa_jax.errors import InputError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
ATTEMPTS, PAUSE = 3, 1.0  # at an interrupted download; seconds between them
_LONGEST = 400  # letters of the client's own message
LOG_IN = "log in (hf auth login, or set HF_TOKEN)"


def download(
    name: str,
    patterns: Sequence[str],
    revision: str | None = None,
    what: str | None = None,
    kind: str = "folder",
    **options: Any,
) -> Path:
    """Download the files of a repository that match patterns, all from one commit.

    A download that is interrupted is taken up again where it stopped. What the cache holds already
    is not downloaded again, and is used where the hub cannot be reached.

    Args:
        name: the repository, "owner/name".
        patterns: as a shell has them, such as "*.json".
        revision: a branch, a tag or a commit; None means the main branch.
        what: what the message calls the name; None means the name itself in quotes.
        kind: what it would be here, "folder" or "file", for the message.
        options: further arguments of `huggingface_hub.snapshot_download`; None means its default.

    Returns:
        The folder in the cache that has them. A pattern that no file matches is no error.

    Raises:
        InputError: it cannot be downloaded; the message says why, and what to do.
    """
    import huggingface_hub  # only here: a folder needs no network code

    given = {key: value for key, value in options.items() if value is not None}
    if revision is not None:
        given["revision"] = revision
    for attempt in range(ATTEMPTS):
        try:
            return Path(
                huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), **given)
            )
        except failures() as error:
            if _interrupted(error) and attempt < ATTEMPTS - 1:
                time.sleep(PAUSE)
                continue
            raise InputError(
                f"{what or repr(name)} is not a {kind} here, and the Hugging Face hub does not "
                f"give it: {explain(error, name, revision)}"
            ) from error
    raise AssertionError("the last attempt returns or raises")


def failures() -> tuple[type[Exception], ...]:
    """List the types that all failures of the hub's client derive from."""
    from huggingface_hub.errors import EntryNotFoundError

    return OSError, ValueError, EntryNotFoundError, _http_error()


def _http_error() -> type[Exception]:
    """Give the base of the HTTP library's errors: httpx or httpx2, by the client's version."""
    from huggingface_hub import errors

    return errors.HfHubHTTPError.__bases__[0]


def _interrupted(error: Exception) -> bool:
    """Tell whether an answer of the hub broke off, or none came in time."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, _http_error()) and not isinstance(error, HfHubHTTPError)


def explain(error: Exception, name: str, revision: str | None = None) -> str:
    """Say in words why the hub's client failed, and what to do about it.

    Args:
        name: the repository.
        revision: what was asked for; None means the main branch.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return _unreachable(name, "HF_HUB_OFFLINE is set; unset it, or")
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__
        if isinstance(cause, Exception) and not isinstance(cause, errors.LocalEntryNotFoundError):
            return explain(cause, name, revision)
        return _unreachable(name, "check the network and HF_HUB_OFFLINE, or")
    if isinstance(error, errors.GatedRepoError):
        return f"its owner asks for an agreement first: open {_page(name)}, agree, and {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such repository, or it is private: check the name, or, if it is yours to "
            f"read, {LOG_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"it has no revision {revision or 'main'!r}: give a branch, a tag or a whole commit "
            f"hash that {_page(name)}/commits lists"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error, name)
    if _interrupted(error):
        return _broken_off(error, name)
    return _words(error)


def _status(error: Any, name: str) -> str:
    """Explain an answer by its HTTP status."""
    status = error.response.status_code
    if status == 401:
        return f"it does not know you (HTTP 401): {LOG_IN}; a token may have expired"
    if status == 403:
        return (
            f"your account or token may not do this with {name!r} (HTTP 403): {LOG_IN} with a "
            "token that has the right, or ask its owner"
        )
    if status == 429:
        return f"it was asked too often (HTTP 429): wait some minutes, or {LOG_IN}"
    if status >= 500:
        return f"it has a fault of its own (HTTP {status}): try again later"
    return _words(error)


def _unreachable(name: str, remedy: str) -> str:
    return (
        f"it cannot be reached, and the cache does not have all of it: {remedy} download it "
        f"elsewhere (hf download {name} --local-dir FOLDER) and give that folder"
    )


def _broken_off(error: Exception, name: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"ConnectError", "ConnectTimeout"}:  # it was never reached
        return _unreachable(name, "check the network, or")
    return (
        f"the connection was interrupted ({_words(error)}): the same command goes on from "
        "where it stopped"
    )


def _page(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def _words(error: Exception) -> str:
    """Give the client's own message in one line."""
    return " ".join(str(error).split())[:_LONGEST] or type(error).__name__
