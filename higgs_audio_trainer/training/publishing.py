"""Uploads to the Hugging Face Hub: adapter, model card, tokenizer and processor, and nothing else of a run.

transformers would send the whole output directory, with the log and its texts, the audio, and its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from huggingface_hub import CommitInfo
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress, hf_api

from higgs_audio_trainer.errors import UserError

#: Names of the files that a public repository gets.
PUBLISHED = (
    *("README.md", "adapter_config.json", "adapter_model*", "processor_config.json", "preprocessor_config.json"),
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "chat_template*", "config.json", "model*.safetensors*"),
)


def publish(
    folder: Path, repository: str, *, message: str, token: str | None, revision: str | None, blocking: bool
) -> CommitInfo | Future[CommitInfo]:
    """Send the published files of a folder to the Hub.

    Raises:
        UserError: The Hub cannot be reached or refuses the files.
    """
    with _hub_errors(folder, repository):
        options: dict[str, Any] = {"run_as_future": not blocking}
        return hf_api().upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            token=token,
            revision=revision,
            allow_patterns=list(PUBLISHED),
            **options,
        )


def publish_checkpoint(
    checkpoint: Path, repository: str, arguments: TrainingArguments, step: int, before: PushInProgress | None
) -> PushInProgress:
    """Begin to send a checkpoint to the Hub.

    With the strategies `checkpoint` and `all_checkpoints`, all files of the checkpoint go to a folder of their own.

    Returns:
        The uploads in progress, with those that began before.
    """
    message = f"Training in progress, step {step}"
    options: dict[str, Any] = {"token": arguments.hub_token, "revision": arguments.hub_revision}
    jobs: list[Any] = [publish(checkpoint, repository, message=message, blocking=False, **options)]
    if arguments.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        is_last = arguments.hub_strategy == HubStrategy.CHECKPOINT
        jobs.append(
            hf_api().upload_folder(
                repo_id=repository,
                folder_path=checkpoint,
                path_in_repo="last-checkpoint" if is_last else checkpoint.name,
                commit_message=f"{message}, checkpoint",
                run_as_future=True,
                **options,
            )
        )
    earlier: Any = [] if before is None else before.jobs
    running = [job for job in earlier if not job.done()]
    return PushInProgress([*running, *jobs])  # type: ignore[arg-type]  # takes a list


@contextmanager
def _hub_errors(folder: Path, repository: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if not isinstance(error, (OSError, ValueError)) and package not in ("huggingface_hub", "httpx", "httpcore"):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"--push_to_hub: {repository}: {reason}. The files are in {folder}. Send them with: hf upload {repository} "
            f"{quote(str(folder))} . --include '*.md' --include 'adapter_*' --include '*.json' --include '*.jinja'"
        ) from error
