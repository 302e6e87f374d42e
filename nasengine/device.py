"""Where it runs and where randomness comes from: every stream from (seed, stage, epoch, step, purpose)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
from collections.abc import Iterator

import torch

from nasengine.errors import ConfigError


def chosen(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means here.

    Raises:
        ConfigError: if a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError.at("runtime.device", "this machine has no usable GPU; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def gpus() -> list[str]:
    """Names of the GPUs that are usable here."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(number) for number in range(found)]


def generator(device: torch.device | str, *key: object) -> torch.Generator:
    """A random stream that depends on `key` alone, so that a resumed run draws what an uninterrupted one draws."""
    return torch.Generator(device).manual_seed(number(*key))


def number(*key: object) -> int:
    """A seed that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What draws from torch's own stream (a library's first weights) draws from one of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Runs with repeatable kernels and this many CPU threads; what was set before is restored."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_num_threads(),
    )
    tf32 = torch.backends.cudnn.allow_tf32
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # every empty tensor would be written twice
    torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa: masked and sliced networks would differ by 1e-4
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Kernels for the CPU are compiled for each shape; a pruned network has more shapes than the usual 1,024.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        torch.utils.deterministic.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_num_threads(before[2])


def label(device: torch.device) -> str:
    """What the device is called on a page."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def peak_memory_mib(device: torch.device) -> float:
    """Highest memory so far: of the GPU's allocator, or resident memory of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bf16 arithmetic where asked for, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
