"""The only conductor: a configuration and a folder in, events out.

    for event in search(parse({"data": {"dataset": "digits"}}), Path("runs/digits")):
        print(event)

Stopping is safe at any time. What a checkpoint holds and what is drawn at each step depend on the configuration alone,
so a run that was killed and continued ends with the very same network.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasengine import (
    catalogue,
    checkpoint,
    data,
    device,
    events,
    export,
    faults,
    latency,
    narration,
    packing,
    parallel,
    teacher,
    train,
    zoo,
)
from nasengine.borrowed import BorrowedNet, Origin
from nasengine.compact import Classifier, built
from nasengine.config import SearchConfig
from nasengine.control import Control
from nasengine.coupling import SECONDS
from nasengine.course import Course
from nasengine.discretise import ladder
from nasengine.errors import CheckpointError, ConfigError, EngineError, Interrupted
from nasengine.events import Event
from nasengine.guide import Guide
from nasengine.latency import Stopwatch
from nasengine.mistakes import judged
from nasengine.outlook import batch_size, outlook, plan_of, resolved
from nasengine.report import reported, timing_told, versions
from nasengine.retraining import Retraining, random_decision
from nasengine.run_folder import FAMILY, RESULT, RunFolder
from nasengine.sizes import LATENCY, label, outside
from nasengine.strategies.base import Batch, Decision, Draw, Moment, Point, Stage, TeacherWanted
from nasengine.supernet import Kept, Supernet, architecture, everything
from nasengine.survey import Survey, ensured, is_due
from nasengine.weights import check_teacher

logger = logging.getLogger(__name__)

JUDGING_BATCHES = 4
"""Held-out batches that a strategy may look at to decide."""
CERTIFICATE_IMAGES = 64
CALIBRATION_IMAGES = 128
"""From which batch norms take their statistics before a candidate of a block is rated."""
TEACHER = "teacher"
"""Who is trained in the phases `teach`, for the networks at the end, and `prepare`, for a stage of the search."""
SEARCHING = ("prepare", "search")
"""Phases before the networks at the end are trained."""
PROGRESS_SECONDS, SAVE_SECONDS = 0.4, 5.0
"""Least time between two progress events, and between two checkpoints of the retraining."""


def search(
    config: SearchConfig, folder: Path, *, fresh: bool = False, control: Control | None = None
) -> Iterator[Event]:
    """Runs the search that `config` asks for, or continues it from the checkpoint in `folder`.

    Args:
        config: from ``config.parse``.
        folder: of this run; events, checkpoint and result are written there.
        fresh: start over even if there is a checkpoint.
        control: for stopping it from outside; of several processes, that of the first one.

    Raises:
        ConfigError: the configuration does not fit the data or the space; nothing was trained.
        Interrupted: `control` asked for the end; the checkpoint is saved.
        EngineError: training or export failed; the last checkpoint is intact.
    """
    place = RunFolder(folder)
    parallel.join(config.runtime.device)
    run = _Run(config, place, control if control and parallel.leads() else Control())
    run.find_checkpoint(fresh=fresh)
    with faults.in_words(), device.deterministic(config.runtime.threads), place.log() as log:
        for event in parallel.told(run.play()):
            run.seq += 1
            numbered = replace(event, seq=run.seq)
            log.write(events.to_line(numbered) + "\n")
            log.flush()
            yield numbered


@dataclass
class _Position:
    """Where a run is. `epoch` and `step` count within the stage or the network."""

    phase: str = "search"
    stage: int = 0
    epoch: int = 0
    step: int = 0
    begun: bool = True
    """Whether the stage was entered and announced."""
    rated: bool = False
    """Whether what the stage closes with was rated, and that was told."""


class _Run:
    def __init__(self, config: SearchConfig, place: RunFolder, control: Control) -> None:
        self.config, self.place, self.control = config, place, control
        self.folder = place.path
        self.seq = 0
        self.position = _Position(begun=False)
        self.saved: dict[str, Any] | None = None
        self.meter = train.Meter()
        self.counts: dict[str, dict[str, int]] = {
            "pruned": dict.fromkeys(narration.GRANULARITIES, 0),
            "regrown": dict.fromkeys(narration.GRANULARITIES, 0),
        }
        self.measured: list[dict[str, Any]] = []
        self.weights: torch.optim.Optimizer | None = None
        self.scores: torch.optim.Optimizer | None = None
        self.members: list[dict[str, Any]] = []
        self.randoms: list[dict[str, Any]] = []
        self.latency: dict[str, Any] | None = None
        """Where the target is a time: what `latency.measured` says, costs as corrected since then, and the device."""
        self.teacher: dict[str, Any] | None = None
        """State and figures of the teacher, once it is trained."""
        self.lesson: dict[str, Any] | None = None
        """Generation and figures of the teacher that stages of the search learn from; its weights lie in a file."""
        self.folders: list[str] = []
        self.stopped = self.finished = False
        """What `Control.stop` and `Control.finish` asked for, once it is obeyed."""
        self.early: list[str] = []
        """What came to an early end by that: search, comparison, retraining."""
        self.returned: dict[str, Tensor] = {}
        self.seconds = {"search": 0.0, "retrain": 0.0}
        self.since = self.began = time.perf_counter()
        self.resumed_fraction = 0.0
        self.last_saved = 0.0

    # -- folder and checkpoint -------------------------------------------------------------------------------------

    def find_checkpoint(self, *, fresh: bool) -> None:
        """Reads the checkpoint, if there is one of this configuration, and forgets what was said after it."""
        if fresh:
            parallel.agreed(self.place.forget)
        if parallel.agreed(lambda: self.place.is_of(self.config)):
            self.saved = checkpoint.load(self.place.checkpoint)
            self.seq = self.saved["seq"]
        parallel.agreed(lambda: self.place.begin(self.config, self.seq))

    def save(self) -> None:
        """Writes everything that an exact continuation needs, unless it has come apart.

        Raises:
            TrainingError: a weight is not a finite number; the last checkpoint is intact.
        """
        self.net.store()
        if self.position.phase == "search" and self.weights is not None:
            train.check_finite([*self.net.live.values(), *self.strategy.state_dict().values()], "search.lr")
            self.net.keep_momentum(self.weights)
        state: dict[str, Any] = {
            "position": vars(self.position),
            "seq": self.seq,
            "sha256": self.images.sha256,
            "net": {
                "nursery": self.net.nursery,
                "momentum": self.net.momentum,
                "kept": self.net.kept,
                "exit": self.net.exit,
                "fresh": sorted(self.net.fresh),
            },
            "strategy": self.strategy.state_dict(),
            "scores": self.scores.state_dict() if self.position.phase == "search" and self.scores is not None else {},
            "meter": {"sums": self.meter.sums, "images": self.meter.images},
            "counts": self.counts,
            "members": self.members,
            "randoms": self.randoms,
            "teacher": self.teacher,
            "lesson": self.lesson,
            "returned": self.returned,
            "measured": self.measured,
            "folders": self.folders,
            "ended": [self.stopped, self.finished, self.early],
            "seconds": {**self.seconds, self._phase_clock(): self._elapsed()},
            "versions": versions(self.config),
            "meant": self._meant(),
            "latency": self.latency,
        }
        if self.position.phase != "search" and hasattr(self, "retraining"):
            train.check_finite(self.retraining.network.parameters(), "retrain.lr")
            state |= {"network": self.retraining.state()}
        if parallel.leads():
            checkpoint.save(self.place.checkpoint, state)
        self.last_saved = time.perf_counter()

    def restore(self) -> None:
        """Puts the saved state back in place; optimizers follow where their phase begins."""
        saved = self.saved
        if saved is None:
            return
        where = self.device

        def moved(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(where) for name, value in values.items()}

        if saved.get("meant") != self._meant():
            raise CheckpointError(
                f"the checkpoint in {self.folder} is of another version of Coppice (it filled in other settings); "
                "start over with --fresh"
            )
        try:
            self.position = _Position(**saved["position"])
            self.net = self.net.with_(moved(saved["net"]["nursery"]), moved(saved["net"]["kept"]), saved["net"]["exit"])
            self._prepare_net()
            self.net.momentum = moved(saved["net"]["momentum"])
            self.lesson = saved.get("lesson")
            if self.lesson:
                self._follow_lesson()
            self.strategy.load_state_dict(saved["strategy"])
            self.meter = train.Meter(**saved["meter"])
            self.counts, self.measured = saved["counts"], saved["measured"]
            self.stopped, self.finished, self.early = saved.get("ended", (False, False, []))
            self.teacher = saved.get("teacher")
            self.seconds, self.members, self.randoms = saved["seconds"], saved["members"], saved["randoms"]
            self.returned = moved(saved["returned"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.folder} is of another version of Coppice ({error}); start over with --fresh"
            ) from error

    def _meant(self) -> dict[str, Any]:
        """What settings that were left empty stand for: it must not change in the middle of a run."""
        return {"batch": self.feeds.all.batch_size, "stage ends": list(self.config.cuts)}

    # -- the run -------------------------------------------------------------------------------------------------

    def play(self) -> Iterator[Event]:
        resumed = self.saved is not None
        if resumed and self.saved["position"]["phase"] == "done":
            yield from self._said_again()
            return
        packed, survey = yield from parallel.first_then_others(self._loaded(silent=resumed))
        if self.saved is not None and self.saved.get("sha256") != packed.sha256:
            raise ConfigError.at(
                "data.dataset",
                f"the images are not those of the search in {self.folder}; use another, or --fresh to start over",
            )
        self.look = outlook(self.config, packed.facts)
        self.look.check()
        self.device = device.chosen(self.config.runtime.device)
        self.images = data.images(packed, self.config.data, self.config.seed, self.device)
        self.plan = plan_of(self.config, packed.facts)
        seed = self.config.seed
        batch = batch_size(self.config, len(self.images.train))
        if problem := parallel.uneven(batch):
            raise ConfigError.at("search.batch_size", problem)
        self.feeds = train.Feeds.of(self.images, batch, seed, self.config.strategy.held_out)
        stream = device.generator("cpu", seed, "weights")
        if survey is None:
            self.net = Supernet.born(self.plan, stream, self.device)
        else:
            self.net = BorrowedNet.whole(self._origin(survey, stream), self.device)
        if self.config.target.metric == LATENCY:
            yield from self._timed()
            self._guide(self.latency["nanoseconds"])
            self.look = outlook(self.config, packed.facts, self.plan.guide)
            self.look.check()
        self._prepare_net()
        part = self.config.strategy
        make = resolved(catalogue.STRATEGIES[part.kind].paths[part.recipe])
        self.strategy = make(self.plan, self.config, self.look.family, self.look.limits).to(self.device)
        self.stages = self.strategy.stages(self.net)
        if not resumed:
            yield narration.search_started(self.config, self.plan, self.look, self.stages, device.label(self.device))
        self.restore()
        if self.latency:
            self._guide(self.latency["corrected"])
        self.resumed_fraction = self._fraction()
        self.since = self.began = time.perf_counter()
        yield from self._phases()

    def _origin(self, survey: Survey, stream: torch.Generator) -> Origin:
        """The library's model with the weights that it starts from."""
        space = self.config.space
        shape = {"classes": len(self.images.class_names), "channels": len(self.images.mean)}
        weights = {"weights": space.weights, "path": space.path}
        if self.saved is not None:  # the checkpoint has them
            weights = {"weights": "none", "path": None}
        with device.seeded(stream.initial_seed()):
            model, fresh = zoo.started(
                space.library, space.model, **shape, image_size=self.config.data.image_size, **weights
            )
        header = {
            "library": space.library, "library_version": version(space.library), "model": space.model,
            "outputs": shape["classes"], "channels": shape["channels"],
        }  # fmt: skip
        if self.saved is not None:
            fresh = self.saved["net"].get("fresh", ())
        return Origin(header=header, model=model, survey=survey, fresh=frozenset(fresh))

    def _timed(self) -> Iterator[Event]:
        """Measures the device, unless that was done before the search was interrupted."""
        here = device.label(self.device)
        self.watch = Stopwatch(self._exported, self._sample(1))
        if self.saved is not None:
            self.latency = self.saved.get("latency")
            if self.saved["position"]["phase"] == "search" and (known := self.latency["device"]) != here:
                raise ConfigError.at(
                    "runtime.device",
                    f"the times of the search in {self.folder} were measured on {known}, and this is {here}; go on "
                    "there, or --fresh to start over",
                )
            return
        stream = device.generator("cpu", self.config.seed, "timing")
        steps = latency.measured(self.plan, self.watch, stream, self.config.strategy.granularities)
        started, said, done = time.perf_counter(), -PROGRESS_SECONDS, 0
        while True:
            self._obey()
            spent = time.perf_counter() - started
            if spent - said >= PROGRESS_SECONDS:
                eta = spent / done * (latency.NETWORKS - done) if done else None
                yield events.DataProgress(
                    what="timing", done=done, total=latency.NETWORKS, unit="networks", eta_seconds=eta
                )
                said = spent
            try:
                done = next(steps)
            except StopIteration as end:
                self.latency = {**end.value, "corrected": end.value["nanoseconds"], "device": here}
                return

    def _exported(self, kept: Kept) -> Classifier:
        """The network of a decision as it is handed out, with any weights."""
        return built({**self.net.described(kept), **self._header()}).to(self.device).eval()

    def _guide(self, nanoseconds: dict[str, float]) -> None:
        """Counts times by these costs from now on."""
        self.net.guide(Guide(nanoseconds))
        self.plan = self.net.plan

    def _correct_guide(self) -> None:
        """From now on the guide says of the network that was just found what was measured."""
        took = self.watch.timing(self.plan, self.net.kept).best
        factor = took / architecture(self.plan, self.net.kept).nanoseconds
        self.latency["corrected"] = dict(self.plan.guide.scaled(factor).nanoseconds)
        self._guide(self.latency["corrected"])

    def _prepare_net(self) -> None:
        self.net.compiled = self.config.runtime.compile
        self.net.bound(self.config.runtime.memory_share)
        if self.latency:
            self.net.clock = lambda kept: self.watch.timing(self.plan, kept).best

    def _phases(self) -> Iterator[Event]:
        if self.position.phase in SEARCHING:
            for stage in self.stages[self.position.stage :]:
                if not self.stopped:
                    yield from self._prepared(stage)
                if stage.fits or not self.stopped:
                    yield from self._stage(stage)
            self.seconds["search"] = self._elapsed()
            self.since = time.perf_counter()
            self.position = _Position(phase="retrain" if self.config.retrain.teacher == "none" else "teach")
            if self.early:
                self._time_anew()
        if self.position.phase == "teach":
            yield from self._teaching()
        yield from self._retrainings()
        yield from parallel.first_then_others(self._published() if parallel.leads() else ())  # files are written once

    def _loaded(self, *, silent: bool) -> Any:
        """The images, and what is known of a model that somebody else wrote."""
        if not silent:  # whoever resumes has the teacher already
            check_teacher(self.config)
        steps = packing.load(self.config.data)
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                packed = end.value
                break
            self._end_if(self.control.requested)
            if not silent:
                yield event
        if is_due(self.config, packed.facts) and not silent:
            yield events.DataProgress(what="tracing", done=0, total=None, unit="models", eta_seconds=SECONDS)
        return packed, ensured(self.config, packed.facts)

    # -- teachers of stages --------------------------------------------------------------------------------------

    def _prepared(self, stage: Stage) -> Iterator[Event]:
        """Trains or loads the network whose maps a stage learns from, if it wants another than there is."""
        wanted = self.strategy.wants(self.net, stage, self.lesson["generation"] if self.lesson else None)
        if wanted is None:
            return
        if wanted.architecture is None:
            self._keep_lesson(wanted, self._of_library(wanted), {})
        else:
            self.position = replace(self.position, phase="prepare", stage=stage.index)
            self.generation = wanted.generation
            self._prepare_teacher(wanted)
            yield from self._training()
            if not self.stopped:
                network = self.retraining.network
                measured = {**self.retraining.validated(), "params": export.nonzero(network)}
                self._keep_lesson(wanted, teacher.own(network, wanted.borders, wanted.sides), measured)
                if not wanted.generation:
                    self.net.adopt(network.state_dict(), block=len(self.plan.blocks) - 1)
        self.position, self.meter = _Position(stage=stage.index, begun=False), train.Meter()
        self.save()
        yield events.CheckpointSaved(phase="search", epoch=self._epoch_number(stage, -1))

    def _prepare_teacher(self, wanted: TeacherWanted) -> None:
        _, epochs = self.config.strategy.teachers(self.config.retrain.epochs)
        key = f"teacher {wanted.generation}"
        self.retraining = Retraining(
            built({**wanted.architecture, **self._header()}).to(self.device), {}, feed=self.feeds.learning,
            plan=self.config.retrain.model_copy(update={"epochs": epochs, "start": "scratch"}),
            precision=self.config.runtime.precision, stream=device.generator("cpu", self.config.seed, key), key=key,
        )  # fmt: skip
        self._go_on_training()

    def _of_library(self, wanted: TeacherWanted) -> teacher.Teacher:
        part, images = self.config.strategy, self.images
        return teacher.of_library(
            part.teacher_library, part.teacher_model, weights=part.teacher_weights, path=part.teacher_path,
            image_size=self.config.data.image_size, shown_size=part.teacher_image_size, sides=wanted.sides,
            mean=images.mean, std=images.std, classes=len(images.class_names),
        )  # fmt: skip

    def _keep_lesson(self, wanted: TeacherWanted, found: teacher.Teacher, measured: dict[str, Any]) -> None:
        """Written once, whole: a checkpoint that names it is younger."""
        trained = self._lessons_trained + (wanted.architecture is not None)
        self.lesson = {"generation": wanted.generation, "measured": measured, "trained": trained}
        if parallel.leads():
            checkpoint.save(self.place.teacher(wanted.generation), teacher.stored(found))
        found.network.to(self.device)
        self.strategy.follow(found, wanted.generation)

    def _follow_lesson(self) -> None:
        found = teacher.restored(checkpoint.load(self.place.teacher(self.lesson["generation"]), teacher.PARTS))
        found.network.to(self.device)
        self.strategy.follow(found, self.lesson["generation"])

    @property
    def _lessons_trained(self) -> int:
        return self.lesson["trained"] if self.lesson else 0

    # -- stages --------------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage) -> Iterator[Event]:
        beginning = not self.position.begun
        self.net.train()
        if beginning:
            self.net.enter(stage.exit)
        self._new_optimizers(stage)
        if beginning:
            yield narration.stage_started(stage, self._size(stage))
        elif self.saved is not None:
            self.scores.load_state_dict(self.saved["scores"])
        started = time.perf_counter()
        for epoch in range(self.position.epoch, stage.epochs):
            yield from self._epoch(stage, epoch)
            if self.stopped:
                stage = replace(stage, epochs=epoch + 1)
            moment = Moment(stage=stage, epoch=epoch, step=self.steps - 1, steps=self.steps)
            if self.meter.images:
                yield from self._epoch_finished(moment)
                self.meter = train.Meter()  # said, even if what decides is interrupted
            closing = False
            for point in ("end",) if self.stopped else self.strategy.points(moment):
                closes = yield from self._decided(moment, point)
                if not closes:
                    continue
                closing = True
                yield events.StageFinished(
                    stage=stage.index, name=stage.name, size=outside(stage.metric, self._size(stage)),
                    target=outside(stage.metric, stage.target), last=stage.last,
                    validation=self._validated(stage.fits, gains=self.strategy.gains(self.net)),
                    seconds=time.perf_counter() - started,
                )  # fmt: skip
            self.position = (
                _Position(stage=stage.index + 1, begun=False)
                if closing
                else _Position(stage=stage.index, epoch=epoch + 1)
            )
            self.meter = train.Meter()
            self.save()
            yield events.CheckpointSaved(phase="search", epoch=self._epoch_number(stage, epoch))
            if closing:
                break

    def _epoch(self, stage: Stage, epoch: int) -> Iterator[Event]:
        learning, deciding = self.feeds.learning, self.feeds.deciding
        order = learning.order("search", stage.index, epoch)
        decisions = deciding.order("decide", stage.index, epoch) if deciding else None
        said, images_since = time.perf_counter(), 0
        for step in range(self.position.step, self.steps):
            self.position = _Position(stage=stage.index, epoch=epoch, step=step)
            self._shorten(**self._obey())
            if self.stopped:
                return
            moment = Moment(stage=stage, epoch=epoch, step=step, steps=self.steps)
            # For dropout, of each process its own.
            torch.manual_seed(device.number(self.config.seed, "search", stage.index, epoch, step) + parallel.rank())
            batch = learning.batch(order[step], "search", stage.index, epoch, step)
            held = None
            if decisions is not None and not moment.warming and not self.strategy.judged_on:
                held = deciding.batch(decisions[step % len(decisions)], "decide", stage.index, epoch, step)
            measures, draw = train.search_step(
                self.net, self.strategy, moment, batch, held, self.weights, self.scores, self.config.runtime.precision
            )
            self.meter.add(learning.batch_size, measures)
            images_since += learning.batch_size + (0 if held is None else deciding.batch_size)
            now = time.perf_counter()
            if now - said >= PROGRESS_SECONDS or step == self.steps - 1:  # charts have a point an epoch at least
                losses = {name: value for name, value in measures.items() if name != "accuracy"}
                yield self._progress(moment, losses, draw, images_since / (now - said))
                said, images_since = now, 0
        self.position.step = self.steps

    @property
    def steps(self) -> int:
        """Steps of an epoch of the search."""
        return self.feeds.learning.steps

    def _decided(self, moment: Moment, point: Point) -> Any:
        """Asks the strategy and commits its answer; returns whether the stage closes with it."""
        batches = self._judging_batches(moment, point)
        if point == "end" and not (self.stopped or self.position.rated):
            yield from self._rated(moment, batches)
            self.position.rated = True
        self.strategy.breathe = self._obey
        try:
            with device.autocast(self.device, self.config.runtime.precision):
                decisions = self.strategy.decide(self.net, moment, point, batches)
        finally:
            del self.strategy.breathe
        if not decisions:
            return point == "end"
        decision = decisions[0]
        before = self.net.kept
        self.net.keep_momentum(self.weights)
        self.net.commit(decision.kept)
        self._new_weights_optimizer()
        closes = point == "end" or decision.closes
        foretold = self._size(moment.stage)
        if closes and moment.stage.fits and self.latency:
            self._correct_guide()
        if closes and moment.stage.fits and (self.strategy.recalibrates or not self.config.retrain.epochs):
            gains, key = self.strategy.gains(self.net), ("judge", moment.stage.index, moment.epoch)
            with device.autocast(self.device, self.config.runtime.precision):
                train.recalibrate(self.net, gains, self.feeds.learning, *key)
            self.net.store()
        reason = (
            "regrow" if point == "regrow" else "cadence" if not closes else "fit" if moment.stage.fits else "stage_end"
        )
        event = narration.committed(
            self.net,
            before,
            decision,
            stage=moment.stage,
            epoch=self._epoch_number(moment.stage, moment.epoch),
            reason=reason,
            size=self._size(moment.stage),
        )
        for name, changed in (("pruned", event.pruned), ("regrown", event.regrown)):
            for granularity, count in changed.items():
                self.counts[name][granularity] += count
        self._follow(before, regrown=point == "regrow")
        if decision.paths is not None:
            yield narration.paths_found(decision.paths, moment.stage, event.epoch)
        yield event
        yield from narration.collapse_averted(self.net, decision, stage=moment.stage, epoch=event.epoch)
        if closes and moment.stage.fits:
            self._keep_member(moment.stage, foretold)
            if moment.stage.last and (decision.ladder or decision.margins):
                others = decision.ladder or self._ladder(decision, moment.stage)
                yield narration.alternatives(self.plan, self.look.metric, others)
        return closes

    def _rated(self, moment: Moment, batches: Sequence[Batch]) -> Iterator[Event]:
        """Lets the strategy compute what it needs to close a stage."""
        started = time.perf_counter()
        said = started
        steps = self.strategy.rate(self.net, moment, batches)
        while True:
            with device.autocast(self.device, self.config.runtime.precision):
                step = next(steps, None)
            if step is None:
                break
            self._shorten(**self._obey())
            if self.stopped:
                return
            now = time.perf_counter()
            if now - said >= PROGRESS_SECONDS:
                done, total = step
                eta = (now - started) / done * (total - done)
                yield events.DataProgress(what="rating", done=done, total=total, unit="candidates", eta_seconds=eta)
                said = now
        if (found := self.strategy.told(self.net, moment)) is not None:
            number = self._epoch_number(moment.stage, moment.epoch)
            yield narration.block_rated(found, moment.stage, number, time.perf_counter() - started)

    def _follow(self, before: dict[str, Tensor], *, regrown: bool) -> None:
        """Remembers which living units once were dead, as long as they live."""
        for name, now in self.net.kept.items():
            known = self.returned.get(name)
            if regrown and bool((now & ~before[name]).any()):
                known = (now & ~before[name]) if known is None else known | (now & ~before[name])
            if known is not None:
                self.returned[name] = known & now

    def _keep_member(self, stage: Stage, foretold: int) -> None:
        """Checks and keeps the network that a stage ends with: for the target of the search, or a further one.

        `foretold` is its size by the guide before it was measured, where the target is a time.
        """
        gains = {name: gain.detach() for name, gain in self.strategy.gains(self.net).items()}
        found = architecture(self.plan, self.net.kept)
        above = [metric for metric, bound in stage.bounds.items() if found.size(metric) > bound]
        if above:  # whatever a strategy decided: never above the target
            raise EngineError(f"the network that was found has more {above[0]} than was asked for")
        self.members.append(
            {
                "target": stage.target,
                **self._compact(self.net),
                "parity": export.certificate(self.net, gains, found, self._sample(CERTIFICATE_IMAGES)),
                "counts": copy.deepcopy(self.counts) | {"survived": narration.survivors(self.net, self.returned)},
                "timing": self._timing(stage.target, foretold) if self.latency else None,
            }
        )
        if stage.target == self.look.target and not self.stopped:
            self._keep_random({metric: found.size(metric) for metric in stage.bounds})

    def _timing(self, target: int, foretold: int) -> dict[str, Any]:
        found = self.watch.timing(self.plan, self.net.kept)
        return timing_told(
            found, target=target, foretold=foretold, known=self.latency, threads=self.config.runtime.threads
        )

    def _ladder(self, decision: Decision, stage: Stage) -> dict[int, Kept]:
        return ladder(
            self.plan, decision.margins, bounds={**stage.bounds, self.look.metric: self.look.target},
            smallest=self.look.smallest_size, granularities=self.config.strategy.granularities,
        )  # fmt: skip

    def _keep_random(self, bounds: dict[str, int]) -> None:
        """Random networks of the found one's sizes, with the weights that the search has at this moment."""
        for number in range(self.config.baseline.random):
            stream = device.generator("cpu", self.config.seed, "random network", number + 1)
            kept = self.strategy.at_random(self.net, stream, bounds) or random_decision(
                self.plan, stream, bounds=bounds, granularities=self.config.strategy.granularities
            )
            if kept is None:
                logger.warning("no random network of the found one's size was found; the comparison ends here")
                return
            alive = {name: units.to(self.device) for name, units in kept.items()}
            if self.config.retrain.epochs:
                net = self.net.with_(self.net.nursery, alive)
            else:  # what is done for the found one is all that is done for it, too
                net = self.net.with_(copy.deepcopy(self.net.nursery), alive)
                train.ready(net, weights=self.strategy.trains_weights)
                with device.autocast(self.device, self.config.runtime.precision):
                    train.recalibrate(net, self.strategy.gains(net), self.feeds.learning, "judge random", number)
            self.randoms.append(self._compact(net))

    def _compact(self, net: Supernet) -> dict[str, Any]:
        """A committed network as it is kept until it is trained."""
        found = architecture(self.plan, net.kept)
        return {
            "kept": {name: alive.cpu() for name, alive in net.kept.items()},
            "state": export.compact_network(net, found, self.strategy.gains(net), self._header()).state_dict(),
            "masks": export.weight_masks(net, found),
        }

    def _sample(self, n: int) -> Tensor:
        """Some validation images, spread evenly."""
        split = self.images.validation
        where = torch.linspace(0, len(split) - 1, min(n, len(split)), device=split.x.device).long()
        return data.normalised(split.x[where], self.images.mean, self.images.std)

    def _judging_batches(self, moment: Moment, point: Point) -> list[Batch]:
        """What a strategy may look at to decide."""
        size, key = self.feeds.learning.batch_size, ("judge", moment.stage.index, moment.epoch)
        if point == "end" and self.strategy.judged_on:
            x, y = self.feeds.judging.plain(self.strategy.judged_on, "judge")  # the same whatever the stage
            calibration = [self.feeds.learning.plain(CALIBRATION_IMAGES, "calibrate")]
        elif point == "regrow":
            x, y = self.feeds.judging.plain(JUDGING_BATCHES * size, *key)
            calibration = []
        else:
            return []
        return [*calibration, *zip(x.split(size), y.split(size), strict=True)]

    def _new_weights_optimizer(self) -> None:
        """After each change of shape."""
        train.ready(self.net, weights=self.strategy.trains_weights)
        self.weights = train.weights_optimizer(self.net, self.config.search.lr, self.config.search.weight_decay)

    def _new_optimizers(self, stage: Stage) -> None:
        self._new_weights_optimizer()
        self.scores = self.strategy.optimizer(Moment(stage=stage, epoch=0, step=0, steps=self.steps))

    def _validated(self, decided: bool = False, **masked: Any) -> dict[str, float | None]:  # noqa: FBT001, FBT002
        """Validation of the network under masks; without any, all that is alive is on."""
        if not (decided or self.strategy.answers):
            return {"loss": None, "accuracy": None}
        self.net.eval()
        found = train.evaluated(lambda x: self.net(x, **masked), self.images.validation, self.images)
        train.ready(self.net, weights=self.strategy.trains_weights)
        return found

    def _epoch_finished(self, moment: Moment) -> Iterator[Event]:
        with torch.no_grad():
            draw, lottery = self.strategy.standing(self.net, moment), self.strategy.lottery(self.net, moment)
        stage, number = moment.stage, self._epoch_number(moment.stage, moment.epoch)
        validation = self._validated(masks=draw.masks, gains=draw.gains, off=draw.off, sub_graph=draw.sub_graph)
        limits = dict(self.strategy.limits())
        yield narration.epoch_finished(self.net, draw, stage, number, self.meter.means(), validation, limits)
        if lottery is not None:
            yield narration.drawn(self.plan, lottery, stage=stage, epoch=number)

    def _progress(self, moment: Moment, losses: dict[str, float], draw: Draw, speed: float) -> Event:
        fraction, metric = self._fraction(), moment.stage.metric
        return events.Progress(
            stage=moment.stage.index,
            epoch=self._epoch_number(moment.stage, moment.epoch),
            step=moment.step,
            steps=moment.steps,
            losses=dict(losses),
            images_per_second=speed,
            size=outside(metric, int(draw.size)),
            target=outside(metric, moment.stage.target),
            reference=outside(metric, int(draw.wanted)),
            memory_mib=round(device.peak_memory_mib(self.device), 1),
            fraction=fraction,
            eta_seconds=self._eta(fraction),
        )

    def _size(self, stage: Stage) -> int:
        """Of all that is alive, or of the largest network that the search may end with, if that is smaller."""
        alive = architecture(self.plan, self.net.kept, stage.exit).size(self.config.target.metric)
        return min(alive, self.look.full_size)

    # -- the found network and those it is compared with -----------------------------------------------------------

    def _teaching(self) -> Iterator[Event]:
        """The whole network, with the weights as the search left them; one that was ended early teaches nobody."""
        whole = everything(self.plan, self.device)
        self._prepare(self._compact(self.net.with_(self.net.nursery, whole)), key=TEACHER)
        yield from self._training()
        if not self.finished:
            self.teacher = {"state": self.retraining.network.state_dict(), "measured": self.retraining.measured()}
        self.position, self.meter = _Position(phase="retrain"), train.Meter()

    def _retrainings(self) -> Iterator[Event]:
        teacher = self._taught_by()
        while (index := self.position.stage) < len(self._networks):
            self._prepare(self._networks[index], key=index, teacher=teacher)
            yield from self._training()
            if index >= len(self._networks):  # a random network that nobody waits for any more
                break
            if self.finished:
                self._keep_the_better(index)
            self.measured.append(self.retraining.measured())
            if index < len(self.members):
                self.members[index]["state"] = self.retraining.network.state_dict()
            self.position = _Position(phase="retrain", stage=index + 1)

    @property
    def _networks(self) -> list[dict[str, Any]]:
        """What is to be trained: the search's own networks, from large to small, then random ones."""
        return [*self.members, *([] if self.stopped else self.randoms)]

    def _prepare(self, kept: dict[str, Any], *, key: int | str, teacher: train.Teacher | None = None) -> None:
        """A compact network with its weights at the start, or as they were saved if it was in hand then."""
        self.retraining = Retraining(
            self._network(kept), {name: mask.to(self.device) for name, mask in kept["masks"].items()},
            feed=self.feeds.all, plan=self.config.retrain, precision=self.config.runtime.precision,
            stream=device.generator("cpu", self.config.seed, "retrain", key), key=key, teacher=teacher,
        )  # fmt: skip
        self._go_on_training()

    def _go_on_training(self) -> None:
        """From where the checkpoint was written, if it was in this training."""
        if self.saved is not None and "network" in self.saved:
            place = self.saved["position"]
            if (place["phase"], place["stage"]) == (self.position.phase, self.position.stage):
                self.retraining.load(self.saved["network"])

    def _taught_by(self) -> train.Teacher | None:
        """The trained teacher, if there is one."""
        if self.teacher is None:
            return None
        part = self.config.retrain
        network = self._network({"kept": everything(self.plan), "state": self.teacher["state"]})
        return train.Teacher(
            network=network.to(memory_format=torch.channels_last), weight=part.teacher_weight,
            temperature=part.temperature,
        )  # fmt: skip

    def _keep_the_better(self, index: int) -> None:
        """Of a training that was ended early: the network as it is, or as the search left it (validation decides)."""
        before = self._network(self._networks[index])
        was = train.evaluated(before, self.images.validation, self.images)["accuracy"]
        now = self.retraining.validated()["accuracy"]
        if parallel.agreed(lambda: (was or 0) > (now or 0)):
            self.retraining.network.load_state_dict(before.state_dict())

    def _network(self, member: dict[str, Any]) -> Classifier:
        network = built({**self.net.described(member["kept"]), **self._header()}).to(self.device)
        network.load_state_dict(member["state"])
        return network.eval()

    def _training(self) -> Iterator[Event]:
        """All epochs of the network in hand, unless it is ended early."""
        total = self.retraining.plan.epochs
        for epoch in range(self.position.epoch, total):
            yield from self._retrain_epoch(epoch)
            if self._enough:
                break
            self.position = replace(self.position, epoch=epoch + 1, step=0)
            self.meter = train.Meter()
            if epoch + 1 < total and time.perf_counter() - self.last_saved > SAVE_SECONDS:
                self.save()
                yield events.CheckpointSaved(phase="retrain", epoch=epoch + 1)

    @property
    def _enough(self) -> bool:
        """Whether nobody waits any more for what is being trained."""
        if self.position.phase == "prepare":
            return self.stopped
        return self.finished or self.position.stage >= len(self._networks)

    def _retrain_epoch(self, epoch: int) -> Iterator[Event]:
        for step in self.retraining.steps(epoch, self.position.step, self.meter):
            self.position = replace(self.position, epoch=epoch, step=step)
            self._shorten(**self._obey())
            if self._enough:
                self.retraining.network.eval()
                return
        self.position.step = self.retraining.feed.steps
        fraction = self._fraction()
        yield events.RetrainEpoch(
            network=self._title(),
            epoch=epoch + 1,
            epochs=self.retraining.plan.epochs,
            train=self.meter.means(),
            validation=self.retraining.validated(),
            fraction=fraction,
            eta_seconds=self._eta(fraction),
        )

    def _title(self) -> str:
        """What the network in hand is called."""
        index = self.position.stage
        if self.position.phase == "teach":
            return TEACHER
        if self.position.phase == "prepare":
            return f"{TEACHER} {self.generation + 1}"
        if index >= len(self.members):
            return f"random {index - len(self.members) + 1}"
        target = self.members[index]["target"]
        return "found" if target == self.look.target else f"at {label(self.look.metric, target)}"

    def _header(self) -> dict[str, Any]:
        return {
            "classes": list(self.images.class_names), "mean": list(self.images.mean), "std": list(self.images.std),
        }  # fmt: skip

    def _published(self) -> Iterator[Event]:
        """Writes a folder for each network, the main one last."""
        self.seconds["retrain"] = self._elapsed()
        ready = []
        order = sorted(range(len(self.members)), key=lambda index: self.members[index]["target"] == self.look.target)
        for index in order:
            member = self.members[index]
            # In the order of pixels that validation has had, so that both count the same images as right.
            judgement = judged(self._network(member).to(memory_format=torch.channels_last), self.images)
            network = self._network(member).cpu().eval()
            is_main = member["target"] == self.look.target
            report = reported(
                self.config, self.look, self.images, architecture(self.plan, member["kept"]), network,
                target=member["target"], measured=self.measured[index],
                random=self.measured[len(self.members) :] if is_main else [],
                family=[other for _, other in ready] if is_main else [],
                parity=member["parity"], counts=member["counts"], seconds=self.seconds, where=self.device,
                judgement=judgement.told, early=self.early,
                teacher=self.teacher["measured"] if self.teacher else None, lesson=self.lesson,
                rated=self.strategy.rated_blocks(), rated_on=min(self.strategy.judged_on, len(self.feeds.judging.part)),
                timing=member.get("timing"),
            )  # fmt: skip
            folder = RESULT if is_main else f"{FAMILY}/{label(self.look.metric, member['target'])}"
            (self.folder / folder).parent.mkdir(exist_ok=True)
            files = export.publish(self.folder / folder, network, report, self._sample(8).cpu(), judgement.sheet)
            ready.append((events.ResultReady(folder=folder, report=report, files=files), {"folder": folder, **report}))
        self.position = _Position(phase="done")
        self.folders = [event.folder for event, _ in ready]
        self.save()
        self.place.forget_teachers()
        for event, _ in ready:
            yield event
        yield events.SearchFinished(seconds=sum(self.seconds.values()))

    def _said_again(self) -> Iterator[Event]:
        seconds = 0.0
        for folder in self.saved["folders"]:
            path = self.folder / folder
            if not (path / "report.json").exists():
                raise CheckpointError(
                    f"{self.folder} holds a finished search whose result was removed; start over with --fresh"
                )
            report = json.loads((path / "report.json").read_text())
            seconds = sum(report["seconds"].values())
            names = [*export.FILES, "SHA256SUMS"]
            if not (path / export.SHEET).exists():  # a result of before there were pictures
                names.remove(export.SHEET)
            files = [export.described(path, path / name) for name in names]
            yield events.ResultReady(folder=folder, report=report, files=files)
        yield events.SearchFinished(seconds=seconds)

    # -- time and obedience --------------------------------------------------------------------------------------

    def _obey(self) -> dict[str, bool]:
        """Ends the run if that is asked for; else answers whether it shall stop early, or finish now."""
        asked = self.control
        requested, stop, finish = parallel.agreed(lambda: (asked.requested, asked.stop, asked.finish))
        self._end_if(requested)
        return {"stop": stop, "finish": finish}

    def _end_if(self, requested: str | None) -> None:
        if requested:
            if hasattr(self, "stages") and requested != "cancel":
                self.save()
            raise Interrupted(f"stopped on request ({requested})")

    def _shorten(self, *, stop: bool, finish: bool) -> None:
        """Notes whether the rest shall be shorter than planned."""
        before, searching = len(self.early), self.position.phase in SEARCHING
        if not self.stopped and (stop or finish):
            self.stopped = True
            self.early += ["search"] * searching + ["comparison"] * bool(self.config.baseline.random)
        if not self.finished and not searching and finish:
            self.finished = True
            self.early += ["retraining"] * (self.position.stage < len(self.members))
        if len(self.early) > before:
            self._time_anew()

    def _time_anew(self) -> None:
        """What is left takes another time than what was so far."""
        self.began, self.resumed_fraction = time.perf_counter(), self._fraction()

    def _phase_clock(self) -> str:
        return "search" if self.position.phase in SEARCHING else "retrain"

    def _elapsed(self) -> float:
        return self.seconds[self._phase_clock()] + time.perf_counter() - self.since

    def _epoch_number(self, stage: Stage, epoch: int) -> int:
        return sum(s.epochs for s in self.stages[: stage.index]) + epoch + 1

    def _fraction(self) -> float:
        where, lessons = self.position, self.config.strategy.teachers(self.config.retrain.epochs)
        course = Course(
            search=self.config.search.epochs, lessons=lessons[0], lesson=lessons[1], retrain=self.config.retrain.epochs,
            teacher=self.config.retrain.teacher == "full",
            networks=len(self.look.family) + (0 if self.stopped else self.config.baseline.random),
        )  # fmt: skip
        searching = where.phase in SEARCHING
        return course.fraction(
            where.phase, taught=self._lessons_trained,
            over=sum(stage.epochs for stage in self.stages[: where.stage]) if searching else where.stage,
            part=where.epoch + where.step / max(1, self.steps if searching else self.feeds.all.steps),
        )  # fmt: skip

    def _eta(self, fraction: float) -> float | None:
        """Seconds left, from the speed since this process began."""
        gained = fraction - self.resumed_fraction
        return (time.perf_counter() - self.began) / gained * (1 - fraction) if gained > 0 else None
