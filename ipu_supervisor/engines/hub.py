"""Asks the Hugging Face hub for checkpoints, and tells "there is none" from "the hub cannot be reached".

Only safetensors, JSON and tokenizer files are ever fetched. Imports the hub's client when it is first asked.
"""

import logging
import threading
from typing import Any, List, Optional

log = logging.getLogger(__name__)

#: What is fetched of a checkpoint; weights in formats that can run code are not.
FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model")
#: What is not, although it fits: copies for other libraries, in folders.
NOT_FETCHED = ("*/*",)
#: How long the hub may take to say what it has, seconds (chosen: a slow answer fits, a user's patience is longer).
LIMIT_S = 4.0


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be had; the message says what to do.

    `final`: trying again cannot help. `waits`: it may, for as long as it takes.
    """

    final, waits = True, False


class HubUnreachable(CheckpointError):
    """The hub gave no answer, and the checkpoint is not in the local cache: a network may come late."""

    final, waits = False, True


class Hub:
    """The hub, behind its client library; `endpoint` other than the client's own is for tests."""

    def __init__(self, endpoint: Optional[str] = None, limit_s: float = LIMIT_S) -> None:
        """Store where the hub is and how long it may take to answer."""
        self._endpoint = endpoint
        self._limit_s = limit_s

    def commit(self, checkpoint: str, revision: str) -> Optional[str]:
        """Return the commit that `revision` is now, or None where the hub cannot be reached in time.

        Raises `CheckpointError` where the hub answers that there is nothing to load.
        """
        found: List[Any] = []
        asking = threading.Thread(target=lambda: found.append(self._ask(checkpoint, revision)), daemon=True)
        asking.start()
        asking.join(self._limit_s)  # looking up a host's name heeds no timeout, so the limit is held from outside
        answer = found[0] if found else None
        if isinstance(answer, CheckpointError):
            raise answer
        return answer

    def fetch(self, checkpoint: str, commit: str) -> str:
        """Fetch what is missing of a checkpoint and return its folder. Raises `HubUnreachable`."""
        from huggingface_hub import snapshot_download

        only, never = list(FETCHED), list(NOT_FETCHED)
        try:
            return str(
                snapshot_download(
                    checkpoint, revision=commit, endpoint=self._endpoint, allow_patterns=only, ignore_patterns=never
                )
            )
        except Exception as error:
            text = "The checkpoint {} could not be fetched ({}); try again, or set CHECKPOINTS=demo."
            raise HubUnreachable(text.format(checkpoint, type(error).__name__)) from error

    def cached(self, checkpoint: str, revision: str) -> Optional[str]:
        """Return the folder of the copy in the local cache, or None."""
        from huggingface_hub import snapshot_download

        try:
            return str(snapshot_download(checkpoint, revision=revision, local_files_only=True))
        except (OSError, ValueError):
            return None

    def _ask(self, checkpoint: str, revision: str) -> Any:
        """Return the commit, the `CheckpointError` that the hub's answer amounts to, or None without an answer."""
        from huggingface_hub import HfApi

        try:
            info = HfApi(endpoint=self._endpoint).model_info(checkpoint, revision=revision, timeout=self._limit_s)
        except Exception as error:  # noqa: BLE001  # the client passes on whatever its HTTP library raises
            log.info("hub_refused checkpoint=%s error=%r", checkpoint, error)
            return refusal(checkpoint, revision, error)
        if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
            return no_safetensors(checkpoint)
        return info.sha


def refusal(checkpoint: str, revision: str, error: Exception) -> Optional[CheckpointError]:
    """Return what the hub's refusal means; None where the hub did not answer, or is out of order itself."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and isinstance(error, ValueError) and not isinstance(error, OSError):
        return CheckpointError("{!r} is no Hugging Face id; write OWNER/NAME, or a folder.".format(checkpoint))
    if status is None or status >= 500 or status == 429:
        return None
    if status in (401, 403):
        text = "There is no checkpoint {} for this account; check its name, or set HF_TOKEN if it is private or gated."
        return CheckpointError(text.format(checkpoint))
    text = "There is no checkpoint {} at revision {} on the hub (HTTP {}); check both."
    return CheckpointError(text.format(checkpoint, revision, status))


def no_safetensors(checkpoint: str) -> CheckpointError:
    """Return the error for weights in another format."""
    return CheckpointError("{} has no safetensors weights, and no others are loaded; convert it.".format(checkpoint))
