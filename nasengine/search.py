"""The only conductor: a configuration and a folder in, events out.

    for event in search(parse({"data": {"dataset": "digits"}}), Path("runs/digits")):
        print(event)

Stopping is safe at any time. What a checkpoint holds and what is drawn at each step depend on the configuration alone,
so a run that was killed and continued ends with the very same network.
"""

from __future__ import annotations

import base64
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasengine import catalogue, checkpoint, data, device, events, export, packing, train
from nasengine.architecture import Architecture, lowered
from nasengine.compact import Network
from nasengine.config import SearchConfig
from nasengine.data import Images
from nasengine.discretise import fitted
from nasengine.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from nasengine.events import Event
from nasengine.outlook import Outlook, outlook, plan_of, resolved
from nasengine.strategies.base import Decision, Moment, Point, Stage
from nasengine.supernet import Supernet, architecture, everything

GRANULARITIES = ("operation", "filter", "weight", "depth")
JUDGING_BATCHES = 4
"""Held-out batches that a strategy may look at to decide."""
CERTIFICATE_IMAGES = 64
PROGRESS_SECONDS, SAVE_SECONDS = 0.4, 5.0
"""Least time between two progress events, and between two checkpoints of the retraining."""
CHANGES_SAID = 2000


class Control:
    """How a run is asked to end: set `requested` to a reason from any thread; it is obeyed at the next step."""

    requested: str | None = None


def search(
    config: SearchConfig, folder: Path, *, fresh: bool = False, control: Control | None = None
) -> Iterator[Event]:
    """Runs the search that `config` asks for, or continues it from the checkpoint in `folder`.

    Args:
        config: from ``config.parse``.
        folder: of this run; events, checkpoint and result are written there.
        fresh: start over even if there is a checkpoint.
        control: for stopping it from outside.

    Raises:
        ConfigError: the configuration does not fit the data or the space; nothing was trained.
        Interrupted: `control` asked for the end; the checkpoint is saved.
        EngineError: training or export failed; the last checkpoint is intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(config, folder, control or Control())
    run.find_checkpoint(fresh=fresh)
    with device.deterministic(config.runtime.threads), run.log() as log:
        for event in run.play():
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


class _Run:
    def __init__(self, config: SearchConfig, folder: Path, control: Control) -> None:
        self.config, self.folder, self.control = config, folder, control
        self.seq = 0
        self.position = _Position()
        self.saved: dict[str, Any] | None = None
        self.meter = train.Meter()
        self.counts: dict[str, dict[str, int]] = {
            "pruned": dict.fromkeys(GRANULARITIES, 0),
            "regrown": dict.fromkeys(GRANULARITIES, 0),
        }
        self.parity: dict[str, float] = {}
        self.measured: list[dict[str, Any]] = []
        self.seconds = {"search": 0.0, "retrain": 0.0}
        self.since = self.began = time.perf_counter()
        self.resumed_fraction = 0.0
        self.last_saved = 0.0

    # -- folder and checkpoint -------------------------------------------------------------------------------------

    def find_checkpoint(self, *, fresh: bool) -> None:
        """Reads the checkpoint, if there is one of this configuration, and forgets what was said after it."""
        settings = self.folder / "config.json"
        wanted = self.config.model_dump(mode="json")
        if fresh:
            for name in ("checkpoint.pt", "events.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
        if (self.folder / "checkpoint.pt").exists():
            known = json.loads(settings.read_text()) if settings.exists() else {}
            different = sorted(
                part for part in wanted if part not in ("name", "runtime") and known.get(part) != wanted[part]
            )
            if different:
                raise ConfigError.at(
                    different[0],
                    f"{self.folder} holds a search with other settings here; use another folder, or --fresh to start over",
                )
            self.saved = checkpoint.load(self.folder / "checkpoint.pt")
            self.seq = self.saved["seq"]
        settings.write_text(json.dumps(wanted, indent=1))
        self._forget_after(self.seq)

    def _forget_after(self, seq: int) -> None:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["seq"] <= seq:
                    kept.append(line)
            except (ValueError, KeyError):
                break  # the line that a kill cut off
        path.write_text("".join(line + "\n" for line in kept))

    def log(self) -> Any:
        return (self.folder / "events.jsonl").open("a")

    def save(self) -> None:
        """Writes everything that an exact continuation needs."""
        self.net.store()
        if self.position.phase == "search":
            self.net.keep_momentum(self.weights)
        state: dict[str, Any] = {
            "position": vars(self.position),
            "seq": self.seq,
            "net": {
                "nursery": self.net.nursery,
                "momentum": self.net.momentum,
                "kept": self.net.kept,
                "exit": self.net.exit,
            },
            "strategy": self.strategy.state_dict(),
            "scores": self.scores.state_dict() if self.position.phase == "search" else {},
            "meter": {"sums": self.meter.sums, "images": self.meter.images},
            "counts": self.counts,
            "parity": self.parity,
            "measured": self.measured,
            "seconds": {**self.seconds, self._phase_clock(): self._elapsed()},
            "versions": versions(),
        }
        if self.position.phase == "retrain":
            state["network"] = {"state": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        checkpoint.save(self.folder / "checkpoint.pt", state)
        self.last_saved = time.perf_counter()

    def restore(self) -> None:
        """Puts the saved state back in place; optimizers follow where their phase begins."""
        saved = self.saved
        if saved is None:
            return
        where = self.device

        def moved(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(where) for name, value in values.items()}

        try:
            self.position = _Position(**saved["position"])
            self.net = Supernet(
                self.plan, moved(saved["net"]["nursery"]), moved(saved["net"]["kept"]), saved["net"]["exit"]
            )
            self.net.momentum = moved(saved["net"]["momentum"])
            self.strategy.load_state_dict(saved["strategy"])
            self.meter = train.Meter(**saved["meter"])
            self.counts, self.parity, self.measured = saved["counts"], saved["parity"], saved["measured"]
            self.seconds = saved["seconds"]
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.folder} is of another version of Coppice ({error}); start over with --fresh"
            ) from error

    # -- the run -------------------------------------------------------------------------------------------------

    def play(self) -> Iterator[Event]:
        resumed = self.saved is not None
        if resumed and self.saved["position"]["phase"] == "done":
            yield from self._said_again()
            return
        packed = yield from self._loaded(silent=resumed)
        self.look = outlook(self.config, packed.facts)
        self.look.check()
        self.device = device.chosen(self.config.runtime.device)
        self.images = data.images(packed, self.config.data, self.config.seed, self.device)
        self.feed = train.Feed(
            images=self.images,
            batch_size=self.config.search.batch_size,
            seed=self.config.seed,
            precision=self.config.runtime.precision,
        )
        self.plan = plan_of(self.config, packed.facts)
        seed = self.config.seed
        self.net = Supernet.born(self.plan, device.generator("cpu", seed, "weights"), self.device)
        make = resolved(catalogue.STRATEGIES[self.config.strategy.kind].path)
        self.strategy = make(self.plan, self.config, self.look.target, device.generator("cpu", seed, "scores")).to(
            self.device
        )
        self.stages = self.strategy.stages(self.net)
        if not resumed:
            yield self._started(self.look)
        self.restore()
        self.resumed_fraction = self._fraction()
        self.since = self.began = time.perf_counter()
        try:
            yield from self._phases()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the device ran out of memory; lower search.batch_size or space.channels and start again, the last checkpoint is intact"
            ) from error

    def _phases(self) -> Iterator[Event]:
        if self.position.phase == "search":
            for stage in self.stages[self.position.stage :]:
                yield from self._stage(stage)
            self.seconds["search"] = self._elapsed()
            self.since = time.perf_counter()
            self.position = _Position(phase="retrain")
        yield from self._retrainings()
        yield from self._published()

    def _loaded(self, *, silent: bool) -> Any:
        steps = packing.load(self.config.data)
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            self._obey()
            if not silent:
                yield event

    def _started(self, look: Outlook) -> Event:
        full = lowered(self.plan, {})
        blocks = [{"name": name, "size": 0, "share": 0.0} for name in self.plan.blocks]
        for layer in full.layers:
            block = self._block_of(str(layer["name"]))
            blocks[block]["size"] += Architecture(  # type: ignore[operator]
                space="", image_size=self.plan.image_size, layers=(layer,), output="", kept={}, sources={}
            ).params
        for block in blocks:
            block["share"] = round(int(str(block["size"])) / full.params, 4)
        return events.SearchStarted(
            name=self.config.name,
            method=catalogue.STRATEGIES[self.config.strategy.kind].label,
            space=self.config.space.kind,
            metric=look.metric,
            target=look.target,
            full_size=look.full_size,
            smallest_size=look.smallest_size,
            blocks=blocks,
            choices=[
                {
                    "name": c.name,
                    "granularity": c.granularity,
                    "block": c.block,
                    "units": c.units,
                    "labels": list(c.labels),
                }
                for c in self.plan.choices
            ],
            stages=[{"name": s.name, "blocks": s.blocks, "epochs": s.epochs, "target": s.target} for s in self.stages],
            epochs=self.config.search.epochs,
            retrain_epochs=self.config.retrain.epochs,
            device=_device_name(self.device),
        )

    def _block_of(self, layer: str) -> int:
        return self.plan.layer[layer.removesuffix("_scale")].block

    # -- stages --------------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage) -> Iterator[Event]:
        beginning = (self.position.epoch, self.position.step) == (0, 0)
        self.net.train()
        if beginning:
            self.net.enter(stage.exit)
        self._new_optimizers(stage)
        if beginning:
            yield self._stage_started(stage)
        elif self.saved is not None:
            self.scores.load_state_dict(self.saved["scores"])
        started = time.perf_counter()
        for epoch in range(self.position.epoch, stage.epochs):
            yield from self._epoch(stage, epoch)
            moment = Moment(stage=stage, epoch=epoch, step=self.feed.steps - 1, steps=self.feed.steps)
            yield self._epoch_finished(moment)
            closing = epoch == stage.epochs - 1
            if closing:
                yield from self._closed(moment)
                yield self._stage_finished(stage, time.perf_counter() - started)
                self.position = _Position(stage=stage.index + 1)
            else:
                if not moment.warming and (epoch + 1 - stage.warmup_epochs) % self.config.strategy.commit_every == 0:
                    yield from self._decided(moment, "cadence")
                self.position = _Position(stage=stage.index, epoch=epoch + 1)
            self.meter = train.Meter()
            self.save()
            yield events.CheckpointSaved(phase="search", epoch=self._epoch_number(stage, epoch))

    def _epoch(self, stage: Stage, epoch: int) -> Iterator[Event]:
        order = self.feed.order("search", stage.index, epoch)
        said, images_since = time.perf_counter(), 0
        for step in range(self.position.step, self.feed.steps):
            self.position = _Position(stage=stage.index, epoch=epoch, step=step)
            self._obey()
            moment = Moment(stage=stage, epoch=epoch, step=step, steps=self.feed.steps)
            batch = self.feed.batch(order[step], "search", stage.index, epoch, step)
            losses, draw, accuracy = train.search_step(
                self.net, self.strategy, moment, batch, self.weights, self.scores, self.config.runtime.precision
            )
            self.meter.add(len(batch[1]), {**losses, "accuracy": accuracy})
            images_since += len(batch[1])
            now = time.perf_counter()
            if now - said >= PROGRESS_SECONDS:
                yield self._progress(moment, losses, int(draw.size), images_since / (now - said))
                said, images_since = now, 0
        self.position.step = self.feed.steps

    def _closed(self, moment: Moment) -> Iterator[Event]:
        yield from self._decided(moment, "end")
        if not moment.stage.last:
            yield from self._decided(moment, "regrow")

    def _decided(self, moment: Moment, point: Point) -> Iterator[Event]:
        decisions = self.strategy.decide(self.net, moment, point, self._judging_batches())
        if not decisions:
            return
        decision = decisions[0]
        before = self.net.kept
        self.net.keep_momentum(self.weights)
        self.net.commit(decision.kept)
        self.weights = train.weights_optimizer(self.net, self.config.search.lr, self.config.search.weight_decay)
        reason = (
            "fit"
            if point == "end" and moment.stage.last
            else {"cadence": "cadence", "end": "stage_end", "regrow": "regrow"}[point]
        )
        yield self._committed(moment, reason, before, decision)

    def _judging_batches(self) -> list[tuple[Tensor, Tensor]]:
        size = self.config.search.batch_size
        x, y = self.feed.plain(self.images.validation, JUDGING_BATCHES * size)
        return list(zip(x.split(size), y.split(size), strict=True))

    def _new_optimizers(self, stage: Stage) -> None:
        self.weights = train.weights_optimizer(self.net, self.config.search.lr, self.config.search.weight_decay)
        self.scores = train.scores_optimizer(self.strategy, Moment(stage=stage, epoch=0, step=0, steps=self.feed.steps))

    def _masked(self, moment: Moment) -> dict[str, float | None]:
        """Validation of the network as its masks stand."""
        with torch.no_grad():
            (draw, *_) = self.strategy.draw(self.net, moment)
            self.net.eval()
            found = train.evaluated(lambda x: self.net(x, draw.masks, draw.gains), self.images.validation, self.images)
            self.net.train()
        return found

    # -- what is said --------------------------------------------------------------------------------------------

    def _stage_started(self, stage: Stage) -> Event:
        return events.StageStarted(
            stage=stage.index,
            name=stage.name,
            blocks=stage.blocks,
            epochs=stage.epochs,
            warmup_epochs=stage.warmup_epochs,
            full_size=stage.start_size,
            size=self._size(stage),
            target=stage.target,
        )

    def _progress(self, moment: Moment, losses: dict[str, float], size: int, speed: float) -> Event:
        stage, fraction = moment.stage, self._fraction()
        return events.Progress(
            stage=stage.index,
            epoch=self._epoch_number(stage, moment.epoch),
            step=moment.step,
            steps=moment.steps,
            losses=dict(losses),
            images_per_second=speed,
            size=size,
            target=stage.target,
            reference=stage.start_size if moment.warming else int(self.strategy.reference(moment)),
            fraction=fraction,
            eta_seconds=self._eta(fraction),
        )

    def _epoch_finished(self, moment: Moment) -> Event:
        stage = moment.stage
        with torch.no_grad():
            draw = self.strategy.draw(self.net, moment)[0]
        means = self.meter.means()
        kept: dict[str, list[int]] = {}
        for choice in self.plan.choices_until(stage.blocks):
            on, total = kept.setdefault(choice.granularity, [0, 0])
            alive = (
                int(draw.masks[choice.name].sum())
                if choice.name in draw.masks
                else int(self.net.kept[choice.name].sum())
            )
            kept[choice.granularity] = [
                on + (alive if choice.name in self.net.running else 0),
                total + self.net.kept[choice.name].numel(),
            ]
        thresholds = {name: float(value.mean()) for name, value in self.strategy.thresholds.items()}
        return events.EpochFinished(
            stage=stage.index,
            epoch=self._epoch_number(stage, moment.epoch),
            train={"loss": means.get("task"), "accuracy": means.get("accuracy")},
            validation=self._masked(moment),
            size=int(draw.size),
            target=stage.target,
            kept=kept,
            thresholds=thresholds,
        )

    def _committed(self, moment: Moment, reason: str, before: dict[str, Tensor], decision: Decision) -> Event:
        pruned, regrown = dict.fromkeys(GRANULARITIES, 0), dict.fromkeys(GRANULARITIES, 0)
        changes: list[dict[str, object]] = []
        totals: dict[str, list[int]] = {}
        for choice in self.plan.choices:
            was, now = before[choice.name], self.net.kept[choice.name]
            on, total = totals.setdefault(choice.granularity, [0, 0])
            totals[choice.granularity] = [on + int(now.sum()), total + now.numel()]
            for action, changed, counts in (("pruned", was & ~now, pruned), ("regrown", ~was & now, regrown)):
                count = int(changed.sum())
                counts[choice.granularity] += count
                if count and len(changes) < CHANGES_SAID:
                    changes += _changes(choice.name, choice.granularity, action, changed, decision)
        for name, counts in (("pruned", pruned), ("regrown", regrown)):
            for granularity, count in counts.items():
                self.counts[name][granularity] += count
        return events.Committed(
            stage=moment.stage.index,
            epoch=self._epoch_number(moment.stage, moment.epoch),
            reason=reason,
            pruned={g: n for g, n in pruned.items() if g in totals},
            regrown={g: n for g, n in regrown.items() if g in totals},
            kept={c.name: _packed_bits(self.net.kept[c.name]) for c in self.plan.choices if c.granularity != "weight"},
            kept_weights=self._living_weights(),
            changes=changes[:CHANGES_SAID],
            totals=totals,
            size=self._size(moment.stage),
            target=moment.stage.target,
        )

    def _living_weights(self) -> dict[str, int]:
        found = {choice.name: 0 for choice in self.plan.choices if choice.granularity == "weight"}
        for layer in self.net.program:
            if layer.prunable:
                mask = self.net.pruned_weights.get(layer.weights)
                found[layer.weights] = int(
                    self.net.live[f"{layer.name}/weight"].numel() if mask is None else mask.sum()
                )
        return found

    def _stage_finished(self, stage: Stage, seconds: float) -> Event:
        last = Moment(stage=replace(stage, warmup_epochs=stage.epochs), epoch=0, step=0, steps=self.feed.steps)
        return events.StageFinished(
            stage=stage.index,
            name=stage.name,
            size=self._size(stage),
            target=stage.target,
            validation=self._masked(last),
            seconds=seconds,
        )

    def _size(self, stage: Stage) -> int:
        return architecture(self.plan, self.net.kept, stage.exit).size(self.config.target.metric)

    # -- the found network and those it is compared with -----------------------------------------------------------

    def _retrainings(self) -> Iterator[Event]:
        for index in range(self.position.stage, 1 + self.config.baseline.random):
            self._prepare(index)
            total = self.config.retrain.epochs
            for epoch in range(self.position.epoch, total):
                yield from self._retrain_epoch(index, epoch)
                self.position = _Position(phase="retrain", stage=index, epoch=epoch + 1)
                self.meter = train.Meter()
                if epoch + 1 < total and time.perf_counter() - self.last_saved > SAVE_SECONDS:
                    self.save()
                    yield events.CheckpointSaved(phase="retrain", epoch=epoch + 1)
            self.measured.append(self._measure(self.network))
            if index == 0:
                self.found = self.network.state_dict()
            self.position = _Position(phase="retrain", stage=index + 1)

    def _prepare(self, index: int) -> None:
        """The compact network number `index`, with its weights at the start or as they were saved."""
        net = self.net if index == 0 else self._random(index)
        last = Moment(
            stage=replace(self.stages[-1], warmup_epochs=self.stages[-1].epochs), epoch=0, step=0, steps=self.feed.steps
        )
        with torch.no_grad():
            gains = self.strategy.draw(net, last)[0].gains
        plan = architecture(self.plan, net.kept)
        self.network = export.compact_network(net, plan, gains, self._header())
        if index == 0 and not self.parity:
            sample, _ = self.feed.plain(self.images.validation, CERTIFICATE_IMAGES)
            self.parity = export.certificate(net, gains, plan, sample)
        self.masks = export.weight_masks(net, plan)
        if self.config.retrain.start == "scratch":
            train.fresh(self.network, device.generator("cpu", self.config.seed, "retrain", index))
            self._neutral(self.network)
            train.keep_pruned(self.network, self.masks)
        self.optimizer = train.retrain_optimizer(self.network, self.config.retrain.weight_decay)
        if self.saved is not None and "network" in self.saved and self.saved["position"]["stage"] == index:
            self.network.load_state_dict(self.saved["network"]["state"])
            self.optimizer.load_state_dict(self.saved["network"]["optimizer"])

    @staticmethod
    def _neutral(network: Network) -> None:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_parameters()

    def _random(self, index: int) -> Supernet:
        """A network of the same space and size whose units are drawn by chance."""
        stream = device.generator("cpu", self.config.seed, "random network", index)
        margins = {name: torch.rand(alive.shape, generator=stream) for name, alive in everything(self.plan).items()}
        size = architecture(self.plan, self.net.kept).size(self.config.target.metric)
        kept = fitted(
            self.plan,
            margins,
            metric=self.config.target.metric,
            target=size,
            granularities=self.config.strategy.granularities,
        )
        self.net.store()
        return Supernet(self.plan, self.net.nursery, {name: alive.to(self.device) for name, alive in kept.items()})

    def _retrain_epoch(self, index: int, epoch: int) -> Iterator[Event]:
        plan, steps = self.config.retrain, self.feed.steps
        order = self.feed.order("retrain", index, epoch)
        self.network.train()
        for step in range(self.position.step, steps):
            self.position = _Position(phase="retrain", stage=index, epoch=epoch, step=step)
            self._obey()
            lr = train.one_cycle(epoch * steps + step, plan.epochs * steps, plan.lr)
            batch = self.feed.batch(order[step], "retrain", index, epoch, step)
            values = train.retrain_step(
                self.network, batch, self.optimizer, self.masks, self.config.runtime.precision, lr
            )
            self.meter.add(len(batch[1]), values)
        self.position.step = steps
        self.network.eval()
        fraction = self._fraction()
        yield events.RetrainEpoch(
            network="found" if index == 0 else f"random {index}",
            epoch=epoch + 1,
            epochs=plan.epochs,
            train=self.meter.means(),
            validation=train.evaluated(self.network, self.images.validation, self.images),
            fraction=fraction,
            eta_seconds=self._eta(fraction),
        )

    def _measure(self, network: Network) -> dict[str, Any]:
        """The one look at the test split."""
        test = self.images.open_test()
        return {
            "validation": train.evaluated(network, self.images.validation, self.images)["accuracy"],
            "test": train.evaluated(network, test, self.images)["accuracy"],
            "params": export.nonzero(network),
        }

    def _header(self) -> dict[str, Any]:
        return {
            "classes": list(self.images.class_names), "mean": list(self.images.mean), "std": list(self.images.std),
        }  # fmt: skip

    def _published(self) -> Iterator[Event]:
        plan = architecture(self.plan, self.net.kept)
        network = Network({**plan.to_json(), **self._header()})
        network.load_state_dict(self.found)
        sample, _ = self.feed.plain(self.images.validation, 8)
        self.seconds["retrain"] = self._elapsed()
        files = export.publish(
            self.folder / "result", network.cpu().eval(), report := self._report(plan, network), sample.cpu()
        )
        self.position = _Position(phase="done")
        self.save()
        yield events.ResultReady(report=report, files=files)
        yield events.SearchFinished(seconds=sum(self.seconds.values()))

    def _said_again(self) -> Iterator[Event]:
        report = json.loads((self.folder / "result" / "report.json").read_text())
        files = [export.described(self.folder / "result", path) for path in sorted((self.folder / "result").iterdir())]
        yield events.ResultReady(report=report, files=files)
        yield events.SearchFinished(seconds=sum(report["seconds"].values()))

    def _report(self, plan: Architecture, network: Network) -> dict[str, Any]:
        look, found, others = self.look, self.measured[0], self.measured[1:]
        image = self.feed.plain(self.images.validation, 1)[0].cpu()
        return {
            "name": self.config.name,
            "method": self.config.strategy.kind,
            "space": self.config.space.kind,
            "target": {"metric": look.metric, "value": look.target},
            "full_size": look.full_size,
            "achieved": {
                "params": export.nonzero(network),
                "params_dense": plan.params_dense,
                "macs": plan.macs,
                "bytes": 0,
                "latency_ms": train.latency_ms(network.cpu().eval(), image),
                "latency_device": _device_name(torch.device("cpu")),
            },
            "accuracy": {"validation": found["validation"], "test": found["test"]},
            "baseline": {"random": others} if others else None,
            "parity": self.parity,
            "pruned": self.counts["pruned"],
            "regrown": self.counts["regrown"],
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "peak_memory_mib": round(device.peak_memory_mib(self.device), 1),
            "seed": self.config.seed,
            "versions": versions(),
            "data": {
                "name": self.images.facts.name,
                "sha256": self.images.sha256,
                "splits": {
                    "train": len(self.images.train),
                    "validation": len(self.images.validation),
                    "test": len(self.images.open_test()),
                },
            },
        }

    # -- time and obedience --------------------------------------------------------------------------------------

    def _obey(self) -> None:
        if self.control.requested:
            if hasattr(self, "weights") and self.control.requested != "cancel":
                self.save()
            raise Interrupted(f"stopped on request ({self.control.requested})")

    def _phase_clock(self) -> str:
        return "search" if self.position.phase == "search" else "retrain"

    def _elapsed(self) -> float:
        return self.seconds[self._phase_clock()] + time.perf_counter() - self.since

    def _epoch_number(self, stage: Stage, epoch: int) -> int:
        return sum(s.epochs for s in self.stages[: stage.index]) + epoch + 1

    def _fraction(self) -> float:
        """Share of the whole run that is over, by epochs; a retraining epoch counts a third."""
        retrain = self.config.retrain.epochs / 3
        total = self.config.search.epochs + retrain * (1 + self.config.baseline.random)
        part = self.position.epoch + self.position.step / max(1, self.feed.steps)
        if self.position.phase == "search":
            done = sum(s.epochs for s in self.stages[: self.position.stage]) + part
        else:
            done = self.config.search.epochs + retrain * self.position.stage + part / 3
        return min(1.0, done / total)

    def _eta(self, fraction: float) -> float | None:
        """Seconds left, from the speed since this process began."""
        gained = fraction - self.resumed_fraction
        return (time.perf_counter() - self.began) / gained * (1 - fraction) if gained > 0 else None


def versions() -> dict[str, str]:
    """What the result was made with."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "coppice": "0.1.0"}


def _changes(
    choice: str, granularity: str, action: str, changed: Tensor, decision: Decision
) -> list[dict[str, object]]:
    scores, limit = decision.scores.get(choice), decision.thresholds.get(choice)
    if granularity == "weight":
        mean = float(scores[changed].mean()) if scores is not None else None
        return [{"choice": choice, "action": action, "count": int(changed.sum()), "score": mean, "threshold": limit}]
    return [
        {
            "choice": choice,
            "unit": unit,
            "action": action,
            "score": float(scores[unit]) if scores is not None else None,
            "threshold": limit,
        }
        for unit in changed.nonzero().flatten().tolist()
    ]


def _packed_bits(alive: Tensor) -> str:
    bits = "".join("1" if on else "0" for on in alive.tolist())
    padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return base64.b64encode(bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))).decode()


def _device_name(where: torch.device) -> str:
    return torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU ({platform.machine()})"
