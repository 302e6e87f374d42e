"""How much of a run is over, by epochs: those of its phases do not take the same time."""

from __future__ import annotations

from dataclasses import dataclass

RETRAIN_EPOCH, TEACHER_EPOCH, ANSWERS = 1 / 3, 0.5, 0.1
"""Time of an epoch of the retraining, of the teacher's, and what its answers add to each, in epochs of the search."""
PREPARING_EPOCH = 1.5
"""The same of a teacher that a stage of the search begins with: of such a search an epoch trains one block."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Epochs of the phases of a run.

    Attributes:
        search: of all stages together.
        lessons: teachers that are trained for stages of the search.
        lesson: epochs of each of them.
        retrain: of each network at the end.
        teacher: whether those learn from the whole network, which is trained before them.
        networks: how many there are at the end.
    """

    search: int
    lessons: int
    lesson: int
    retrain: int
    teacher: bool
    networks: int

    def fraction(self, phase: str, *, taught: int, over: int, part: float) -> float:
        """Share of the run that is over, at most 1.

        Args:
            phase: prepare, search, teach, or one after them.
            taught: of the teachers of stages, those that are trained.
            over: epochs of the stages that are done; at the end, networks that are.
            part: epochs of what is in hand.
        """
        each = RETRAIN_EPOCH + ANSWERS * self.teacher
        preparing = PREPARING_EPOCH * self.lesson
        searched = self.search + preparing * self.lessons
        teaching = TEACHER_EPOCH * self.retrain * self.teacher
        match phase:
            case "prepare":
                done = over + preparing * taught + PREPARING_EPOCH * part
            case "search":
                done = over + preparing * taught + part
            case "teach":
                done = searched + TEACHER_EPOCH * part
            case _:
                done = searched + teaching + each * (self.retrain * over + part)
        return min(1.0, done / (searched + teaching + each * self.retrain * self.networks))
