"""Saving and loading a search: one file, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from nasengine.errors import CheckpointError


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces `path` in one step; a crash leaves the old file.

    Args:
        path: the checkpoint.
        state: tensors and plain values only, so that it loads without running code.
    """
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path, parts: Collection[str] = ("position", "seq")) -> dict[str, Any]:
    """The state that `save` stored, on the CPU; `parts` are names that it surely has.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes on a damaged file
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}); start over with --fresh") from error
    if not isinstance(state, dict) or not set(parts) <= state.keys():
        raise CheckpointError(f"{path} is not a checkpoint of a search; start over with --fresh")
    return state
