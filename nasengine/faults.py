"""Memory and disks that give out while a search runs, in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nasengine.errors import EngineError, TrainingError

IN_WORDS_ONLY = ("can't allocate memory", "could not create a primitive", "std::bad_alloc")
"""How torch and oneDNN say on the CPU that there is no memory left."""


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Raises them as `TrainingError`, with what is to be done; all else as it is."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            raise TrainingError(
                "the device ran out of memory; lower search.batch_size, space.channels or runtime.memory_share, or "
                "take a smaller model, in a new search; the last checkpoint of this one is intact"
            ) from error
        if fault := _file_fault(error):
            raise TrainingError(
                f"a file could not be read or written ({fault}); see that the disk is there and not full, then start "
                "again; the last checkpoint is intact"
            ) from error
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in IN_WORDS_ONLY
    )


def _file_fault(error: BaseException | None) -> BaseException | None:
    """What a disk has to do with it: torch hides that behind an error of its own, safetensors says it in words only."""
    while error is not None and not isinstance(error, OSError) and "I/O error" not in str(error):
        error = error.__context__
    return error
