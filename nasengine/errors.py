"""What can go wrong, as types. A message says what is wrong, what was expected and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable

from nasengine.names import brief


class EngineError(Exception):
    """Anything the engine refuses or cannot finish; its text is meant for people."""


class ConfigError(EngineError, ValueError):
    """The configuration asks for something impossible (exit code 2, HTTP 422, a form field's error).

    Attributes:
        problems: pairs of dotted field name (``target.value``; empty for the whole) and sentence.
    """

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{field}: {text}" if field else text for field, text in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[object]]:
        """Comes back whole from another process."""
        return type(self), (self.problems,)

    @classmethod
    def at(cls, field: str, text: str) -> ConfigError:
        """One problem of one field."""
        return cls([(field, text)])


class DataError(ConfigError):
    """The images cannot be used: missing, unreadable, too few classes (exit code 2)."""


class TrainingError(EngineError):
    """Training cannot go on: not-a-number losses, memory exhausted."""


class ExportError(EngineError):
    """The compact network does not compute what the masked one did; nothing was published."""


class CheckpointError(EngineError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class Interrupted(EngineError):
    """Somebody asked the run to end; its checkpoint is saved (exit code 3)."""


def told(error: Exception) -> str:
    r"""The first line of what somebody else's error says; its kind where it says nothing.

    >>> told(ValueError("two\nlines")), told(AssertionError())
    ('two', 'AssertionError')
    """
    return brief((str(error).strip() or type(error).__name__).splitlines()[0])
