"""The command line: JSON lines on stdout, words for people on stderr.

Exit codes: 0 done, 1 failed, 2 bad input, 3 stopped on request (the checkpoint is saved).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nasengine import config, events, parallel
from nasengine.control import Control
from nasengine.errors import ConfigError, EngineError, Interrupted
from nasengine.events import Event, SearchFailed

DONE, FAILED, BAD_INPUT, STOPPED = range(4)
MOST_SEEDS = 20


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    last = 0
    try:
        for line in parsed.run(parsed):
            if isinstance(line, Event):
                last = line.seq
                _say(events.to_line(line))
            elif isinstance(line, str):
                _say(line)
            else:
                _say(json.dumps(line))
                if line.get("ok") is False:
                    return FAILED
    except Interrupted as request:
        if parallel.leads():
            print(request, file=sys.stderr)
        return STOPPED
    except ConfigError as error:
        return _failed(error, last, list(error.problems), BAD_INPUT)
    except EngineError as error:
        return _failed(error, last, [], FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # the rim: whatever happened, the last line says so
        traceback.print_exc()
        return _failed(error, last, [], FAILED)
    return DONE


def _failed(error: Exception, last: int, problems: list[tuple[str, str]], code: int) -> int:
    name = type(error).__name__
    message = (
        str(error)
        if isinstance(error, EngineError)
        else f"{name}: {error}; this is a fault of Coppice, please report it"
    )
    who = "" if parallel.leads() else f"process {parallel.rank()}: "
    print(f"{who}error: {message}", file=sys.stderr)
    event = SearchFailed(seq=last + 1, error=name, message=message, problems=[list(problem) for problem in problems])
    _say(events.to_line(event))
    return code


def _say(line: str) -> None:
    """On stdout; of several processes only the first one speaks."""
    if parallel.leads():
        print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nasengine", description="Search for small neural networks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    search = commands.add_parser("search", help="run a search, or continue it from its checkpoint")
    search.add_argument("config", metavar="CONFIG.json", type=Path)
    search.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of this run")
    search.add_argument("--fresh", action="store_true", help="start over even if DIR holds a checkpoint")
    search.add_argument(
        "--seeds", metavar="N", type=_some, default=1,
        help="search with N seeds, each in a folder of its own, and report how far they agree (DIR/report.json)",
    )  # fmt: skip
    search.add_argument(
        "--supervised",
        action="store_true",
        help="take commands (pause, stop, finish, cancel) on stdin; its end means save and exit",
    )
    search.set_defaults(run=_search)
    describe = commands.add_parser("describe", help="reachable sizes, feasibility and estimate, without running")
    describe.add_argument("config", metavar="CONFIG.json", type=Path)
    describe.set_defaults(run=_describe)
    verify = commands.add_parser("verify", help="check a result: checksums, size, certificate")
    verify.add_argument("folder", metavar="DIR", type=Path)
    verify.set_defaults(run=_verify)
    export = commands.add_parser("export", help="write more formats of a finished run")
    export.add_argument("folder", metavar="DIR", type=Path)
    export.add_argument(
        "--format", choices=("onnx", "pt2", "sparse"), required=True,
        help="ONNX, torch.export's own format, or the weights with their zeros left out",
    )  # fmt: skip
    export.add_argument("--to", metavar="FILE", type=Path, help="default: DIR/model.onnx, .pt2 or .sparse.safetensors")
    export.set_defaults(run=_export)
    model = commands.add_parser("model", help="how far a known model can be narrowed, and what of it cannot")
    model.add_argument("model", metavar="LIBRARY:NAME", help="such as timm:mobilenetv3_small_100, torchvision:resnet18")
    model.add_argument("--classes", metavar="N", type=_at_least_one, default=10)
    model.add_argument("--channels", metavar="N", type=_at_least_one, default=3, help="of the images")
    model.add_argument("--image-size", metavar="S", type=_at_least_one, default=64, help="side of the images in pixels")
    model.add_argument("--seconds", metavar="N", type=_at_least_one, default=60, help="give up after that time")
    model.add_argument("--json", action="store_true", help="all groups, as one JSON object")
    model.set_defaults(run=_model)
    devices = commands.add_parser("devices", help="the GPUs that a search can use here, by name")
    devices.set_defaults(run=_devices)
    pack = commands.add_parser("pack", help="check and pack images")
    pack.add_argument("--dataset", required=True)
    pack.add_argument("--path")
    pack.add_argument("--image-size", type=int, default=32)
    pack.add_argument("--out", metavar="DIR", type=Path, required=True, help="for facts.json and thumbnails")
    pack.set_defaults(run=_pack)
    return parser


def _some(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seeds; give 1 to {MOST_SEEDS}")
    return int(text)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def _search(parsed: argparse.Namespace) -> Iterator[Event | dict[str, Any]]:
    wanted = _read(parsed.config)
    if parsed.supervised and parsed.seeds > 1:
        raise ConfigError.at("", "--supervised is for one search; leave out --seeds, or start one run for each seed")
    if parallel.world() > 1 and parsed.seeds > 1:
        raise ConfigError.at("", "--seeds is for one process; leave it out, or start without torchrun")
    control = Control()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: _request(control, signal.Signals(number).name))
    if parsed.supervised and parallel.leads():
        threading.Thread(target=_listen, args=(control,), daemon=True).start()
    # These bring torch, which takes seconds: bad input and requests do not wait for it.
    from nasengine.repeated import repeated
    from nasengine.search import search

    if parsed.seeds > 1:
        run = repeated(wanted, parsed.out, parsed.seeds, fresh=parsed.fresh, control=control)
    else:
        run = search(wanted, parsed.out, fresh=parsed.fresh, control=control)
    return _with_bar(run) if sys.stderr.isatty() and parallel.leads() else run


def _request(control: Control, reason: str) -> None:
    control.requested = reason


def _listen(control: Control) -> None:
    for line in sys.stdin:
        match line.strip():
            case ("cancel" | "pause") as command:
                control.requested = command
                return
            case "stop":
                control.stop = True
            case "finish":
                control.finish = True
            case command:
                print(f"unknown command '{command}'; known are: pause, stop, finish, cancel", file=sys.stderr)
    control.requested = "the supervisor is gone"


def _with_bar(run: Iterator[Event | dict[str, Any]]) -> Iterator[Event | dict[str, Any]]:
    from tqdm import tqdm

    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{postfix}", file=sys.stderr) as bar:
        for event in run:
            fraction, eta = getattr(event, "fraction", None), getattr(event, "eta_seconds", None)
            if fraction is not None:
                bar.n = round(100 * fraction, 1)
            if eta is not None:
                bar.set_postfix_str(tqdm.format_interval(int(eta)) + " left")
            if isinstance(event, Event):
                bar.set_description(event.kind.replace("_", " "))
            yield event
        bar.n = 100


def _describe(parsed: argparse.Namespace) -> Iterator[dict[str, Any]]:
    wanted = _read(parsed.config)
    from nasengine.outlook import outlook
    from nasengine.splits import builtin_facts
    from nasengine.weights import check_teacher

    check_teacher(wanted)
    if wanted.data.dataset in _builtin_names():
        facts = builtin_facts(wanted.data.dataset)
    else:
        from nasengine import packing

        facts = packing.loaded(wanted.data).facts
    if wanted.space.kind == "imported":
        from nasengine.spaces import imported
        from nasengine.survey import ensured

        ensured(wanted, facts)
        size, classes = wanted.data.image_size, len(facts.class_names)
        imported.check_weights(wanted.space, image_size=size, channels=facts.channels, classes=classes)
    look = outlook(wanted, facts)
    yield {
        "config": wanted.model_dump(mode="json"),
        **look.to_json(),
        "data": facts.to_json(),
    }


def _builtin_names() -> list[str]:
    from nasengine.catalogue import DATASETS

    return list(DATASETS)


def _verify(parsed: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from nasengine.export import verified

    yield verified(parsed.folder)


def _export(parsed: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from nasengine.export import EXPORTS, exported

    yield exported(parsed.folder, parsed.format, parsed.to or parsed.folder / EXPORTS[parsed.format])


def _model(parsed: argparse.Namespace) -> Iterator[str | dict[str, Any]]:
    library, colon, name = parsed.model.partition(":")
    if not colon:
        raise ConfigError.at(
            "space.model",
            f"'{parsed.model}' names no library; write it as in timm:{parsed.model} or torchvision:resnet18",
        )
    from nasengine import survey

    shape = {"classes": parsed.classes, "channels": parsed.channels, "image_size": parsed.image_size}
    facts = survey.written(library, name, **shape, seconds=parsed.seconds).facts
    yield {"library": library, "name": name, **shape, **facts} if parsed.json else facts["sentence"]


def _devices(parsed: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from nasengine.device import gpus

    yield {"gpus": gpus()}


def _pack(parsed: argparse.Namespace) -> Iterator[Event]:
    wanted = {"dataset": parsed.dataset, "image_size": parsed.image_size}
    settings = config.parse({"data": wanted if parsed.path is None else {**wanted, "path": parsed.path}}).data
    from nasengine import packing

    yield from packing.pack(settings, parsed.out)


def _read(path: Path) -> config.SearchConfig:
    try:
        raw = config.document(path.read_bytes())
    except OSError as error:
        raise ConfigError.at("", f"{path} cannot be read ({error.strerror}); give the path of a JSON file") from None
    except ValueError as error:
        raise ConfigError.at("", f"{path} is not valid JSON ({error})") from None
    return config.parse(raw)


if __name__ == "__main__":
    sys.exit(main())
