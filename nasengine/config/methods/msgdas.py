"""Settings of MSG-DAS, and what they rule out elsewhere."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from nasengine.config.methods.base import Granularity, Method, Rest
from nasengine.config.part import option
from nasengine.errors import ConfigError


class MSGDASConfig(Method):
    """Mutually-aware sub-graphs (arXiv 2107.04324): each step trains a few single paths that share no operation."""

    kind: Literal["msgdas"] = option("msgdas", "The search method.", title="Method", advanced=False)
    recipe: Literal["reconstructed"] = option(
        "reconstructed",
        "reconstructed: the parts that the paper's abstract names, as we understand them. More of it could not be "
        "read, so equations and settings are ours.",
        title="Recipe",
    )
    then: Literal["nothing", "mgas"] = option(
        "nothing",
        "What follows once operations are chosen. nothing: what is found differs from the whole space in its "
        "operations alone. mgas: in the second half of the search MGAS prunes filters and weights to the target.",
        title="Then",
    )
    sub_graphs: int = option(
        2,
        "How many paths are drawn at each step: on every connection as many different operations. More of them see "
        "more of the space at once and take more memory and time.",
        title="Sub-graphs",
        ge=1,
        le=16,
    )
    memory: Literal["joint", "sequential"] = option(
        "joint",
        "joint: all sub-graphs of a step are kept until its backward pass. sequential: one after the other, with the "
        "same gradients, so that memory does not grow with their number.",
        title="Memory",
    )
    soft: Literal["renorm", "sequential", "full"] = option(
        "renorm",
        "What scores learn from: a softmax over the operations that were drawn (renorm, two sub-graphs at least), over "
        "those that earlier draws left (sequential), or over all (full, as GDAS does).",
        title="Soft part",
    )
    align: Literal["shuffled", "rank"] = option(
        "shuffled",
        "Which sub-graph gets which draw. shuffled: on each connection another order. rank: the first sub-graph gets "
        "the best one everywhere.",
        title="Alignment",
    )
    temperature_start: float = option(
        5.0, "Of the soft part when scores begin to learn. It shapes gradients only, never what is drawn.",
        title="Temperature at first", ge=0.01, le=100,
    )  # fmt: skip
    temperature_end: float = option(
        0.1, "Of the soft part at the end; it falls evenly.", title="Temperature at the end", ge=0.01, le=100
    )
    warmup_fraction: float = option(
        0.15, "Share of the search in which only weights learn and every operation is as likely; at least one epoch.",
        title="Warm-up share", ge=0, le=0.8,
    )  # fmt: skip
    decision_fraction: float = option(
        0.25,
        "Share of the training images held out for decisions: once the warm-up is over, scores learn from them alone. "
        "0: no such split.",
        title="Decision share",
        ge=0,
        le=0.5,
    )
    keep_start: float = option(
        0.8,
        "Share of a skip's values that training leaves at first: squares of the rest are zeroed (DropBlock), so that "
        "skips do not lead only because they need not learn. 1: no such noise.",
        title="Kept of skips at first",
        ge=0.1,
        le=1,
    )
    keep_end: float = option(
        1.0, "The same at the end; it moves evenly.", title="Kept of skips at the end", ge=0.1, le=1
    )
    guidance: Literal["mean", "supernet", "off"] = option(
        "mean",
        "Whose answers each sub-graph learns from beside the labels, after the warm-up. mean: those of the sub-graphs "
        "together. supernet: those of all operations, mixed by their probabilities; a forward pass more.",
        title="Guidance",
    )
    guidance_weight: float = option(
        1.0, "How much these answers count; the labels count 1.", title="Guidance weight", ge=0, le=10
    )

    stage_shares: ClassVar[None] = None

    @model_validator(mode="after")
    def one_sub_graph_has_no_others(self) -> Self:
        if self.sub_graphs > 1:
            return self
        if self.soft == "renorm":
            raise ConfigError.at(
                "strategy.soft", "among one draw there is nothing to weigh, so scores would never learn; use full"
            )
        if self.guidance == "mean" and self.guidance_weight:
            raise ConfigError.at(
                "strategy.guidance", "the mean of one sub-graph is itself and teaches it nothing; use supernet or off"
            )
        return self

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """Levels at which units may be pruned."""
        return ("operation",) if self.then == "nothing" else ("operation", "filter", "weight")

    @property
    def rounds(self) -> int:
        return 1 if self.then == "nothing" else 2

    @property
    def drawn(self) -> int:
        return self.sub_graphs

    @property
    def drawn_at_once(self) -> int:
        return self.sub_graphs if self.memory == "joint" else 1

    @property
    def finer(self) -> str:
        return "let strategy.then be mgas, which prunes filters and weights as well"

    @property
    def leaner(self) -> str:
        return "give fewer strategy.sub_graphs, or let strategy.memory be sequential"

    @property
    def held_out(self) -> float:
        return self.decision_fraction

    def check_search(self, config: Rest) -> None:
        if self.then == "nothing" and config.runtime.compile:
            raise ConfigError.at(
                "runtime.compile", "MSG-DAS runs other operations at each step, which cannot be compiled; leave it off"
            )
        if self.then == "nothing" and config.target.also:
            raise ConfigError.at(
                "target.also",
                "MSG-DAS chooses operations once, so it ends with one network; leave it empty, or let strategy.then be "
                "mgas",
            )
