"""What every search method answers about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

from nasengine.config.part import Part
from nasengine.config.spaces import AnySpace
from nasengine.config.target import TargetConfig
from nasengine.config.training import RetrainConfig, RuntimeConfig, SearchPlan

Granularity = Literal["operation", "filter", "weight"]


class Rest(Protocol):
    """The parts of a configuration beside its method, as far as a method has anything to say about them."""

    @property
    def space(self) -> AnySpace: ...

    @property
    def target(self) -> TargetConfig: ...

    @property
    def search(self) -> SearchPlan: ...

    @property
    def retrain(self) -> RetrainConfig: ...

    @property
    def runtime(self) -> RuntimeConfig: ...


class Method(Part):
    """Base of the search methods: what the others ask of any of them."""

    idle: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {}
    """Setting -> one of its values, as text -> the other settings that say nothing beside it."""

    @property
    def rounds(self) -> int:
        """Stages over the whole network down to the first target."""
        return 1

    @property
    def held_out(self) -> float:
        """Share of the training images that weights do not learn from while it searches."""
        return 0.0

    @property
    def wants_trained(self) -> bool:
        """Whether it makes sense with weights alone that were trained before the search."""
        return False

    @property
    def drawn(self) -> int:
        """Sub-graphs that a step runs, each with one operation on every connection; 0 if it runs the whole network."""
        return 0

    @property
    def drawn_at_once(self) -> int:
        """Those of them that are in memory together."""
        return self.drawn

    @property
    def finer(self) -> str:
        """What makes the steps smaller in which sizes can be met."""
        return "open filters or weights as well"

    @property
    def leaner(self) -> str:
        """What takes less memory."""
        return "give a smaller search.batch_size or fewer channels"

    def teachers(self, retrain_epochs: int) -> tuple[int, int]:
        """How many networks are trained for the search to learn from, and for how many epochs each."""
        return 0, 0

    def stage_ends(self, space: AnySpace, epochs: int) -> tuple[int, ...]:
        """Numbers of blocks after which early stages end; none, so the whole network is searched at once.

        Args:
            space: which is searched.
            epochs: of the search down to its first target.
        """
        return ()

    def repetitions(self, space: AnySpace) -> int:
        """How often a preset's epochs are needed, since parts of the network learn one after the other."""
        return 1

    def check_search(self, config: Rest) -> None:
        """Raises ConfigError if the rest of the configuration asks for what the method cannot do."""
