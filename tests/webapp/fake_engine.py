"""Stands in for `python -m nasengine`: prints event lines as it is told. The configuration's name says what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from nasengine import events
from tests.webapp import tiny_model

STARTED = events.SearchStarted(
    seq=1, name="fake", method="mgas", space="cells", metric="params", target=20_000, also=[], limits={},
    full_size=50_000, smallest_size=900, blocks=[], choices=[], stages=[], epochs=4, retrain_epochs=1, device="cpu",
)  # fmt: skip
REPORT = {"accuracy": {"validation": 0.97, "test": 0.96}, "achieved": {"params": 19_900}, "family": []}


def main() -> int:
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "devices":
        sys.stdout.write('{"gpus": []}\n')
        return 0
    if command == "model":
        return model(arguments)
    if command == "pack":
        return pack(Path(arguments[arguments.index("--out") + 1]), Path(arguments[arguments.index("--path") + 1]))
    folder = Path(arguments[arguments.index("--out") + 1])
    name = json.loads(Path(arguments[0]).read_text())["name"]
    with (folder / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return {
        "finishes": finishes, "forgets": forgets, "refuses": refuses, "crashes": crashes,
        "waits": waits, "waits once": waits_once, "is stubborn": is_stubborn, "is killed": is_killed,
        "dies once": dies_once, "bursts": bursts, "talks": talks, "chats": chats, "mumbles": mumbles,
    }[name](folder)  # fmt: skip


def say(*said: events.Event) -> None:
    sys.stdout.write("".join(f"{events.to_line(event)}\n" for event in said))
    sys.stdout.flush()


def progress(seq: int) -> events.Progress:
    return events.Progress(
        seq=seq, stage=1, epoch=1, step=seq, steps=500, losses={"task": 1.0}, images_per_second=None, size=40_000,
        target=20_000, reference=40_000, memory_mib=512.0, fraction=0.5, eta_seconds=9.0,
    )  # fmt: skip


def result(folder: Path, seq: int) -> int:
    (folder / "result").mkdir(exist_ok=True)
    (folder / "result" / "model.py").write_text("# a model\n")
    files = [{"name": "model.py", "bytes": 10, "sha256": "ab" * 32}]
    ready = events.ResultReady(seq=seq, folder="result", report=REPORT, files=files)
    say(ready, events.SearchFinished(seq=seq + 1, seconds=1.0))
    return 0


def finishes(folder: Path) -> int:
    sys.stdout.write("a library says hello on stdout\n")
    say(STARTED, progress(2))
    return result(folder, 3)


def forgets(folder: Path) -> int:
    say(STARTED)
    return 0


def refuses(folder: Path) -> int:
    say(events.SearchFailed(error="ConfigError", message="it cannot be", problems=[["target.value", "it cannot be"]]))
    return 2


def crashes(folder: Path) -> int:
    say(STARTED)
    sys.stderr.write("CUDA error: the cat sat on the keyboard\n")
    return 7


def talks(folder: Path) -> int:
    for number in range(1000):
        sys.stderr.write(f"word {number}\n")
    return result(folder, 1)


def mumbles(folder: Path) -> int:
    sys.stdout.write(
        events.to_line(replace(progress(1), losses={"told": 1.0})).replace("told", "\\u0000\\udce9") + "\n"
    )
    sys.stdout.flush()
    sys.stderr.write("No such file: caf\0\n")
    return 7


def note(folder: Path, command: str) -> None:
    """What it was told, word after word."""
    path = folder / "heard"
    before = f"{path.read_text()} " if path.exists() else ""
    path.write_text(before + command)


def waits(folder: Path) -> int:
    say(STARTED)
    for line in sys.stdin:
        note(folder, line.strip())
        if line.strip() in ("cancel", "pause"):
            return 3
        if line.strip() == "finish":
            return result(folder, 3)
    note(folder, "end of file")
    say(events.CheckpointSaved(seq=2, phase="search", epoch=1))
    return 3


def waits_once(folder: Path) -> int:
    if len((folder / "starts").read_text().split()) == 1:
        return waits(folder)
    return result(folder, 3)


def is_stubborn(folder: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # holds our stdout open
    (folder / "grandchild").write_text(str(child.pid))
    say(STARTED)
    time.sleep(600)
    return 0


def is_killed(folder: Path) -> int:
    say(STARTED, progress(2))
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def dies_once(folder: Path) -> int:
    if len((folder / "starts").read_text().split()) == 1:
        say(STARTED, events.CheckpointSaved(seq=2, phase="search", epoch=1), progress(3), progress(4), progress(5))
        os.kill(os.getpid(), signal.SIGKILL)
    say(progress(3), progress(4))
    return result(folder, 5)


def bursts(folder: Path) -> int:
    while not (folder / "go").exists():
        time.sleep(0.02)
    say(STARTED, *(progress(seq) for seq in range(2, 500)))
    return result(folder, 500)


def chats(folder: Path) -> int:
    """50 events a second from `go` until `enough`; notes when it said which."""
    say(STARTED)
    seq = 1
    with (folder / "said").open("w") as said:
        said.write(f"1 {time.time()}\n")
        while not (folder / "go").exists():
            time.sleep(0.02)
        began = time.monotonic()
        while not (folder / "enough").exists():
            seq += 1
            time.sleep(max(0.0, began + (seq - 1) / 50 - time.monotonic()))
            said.write(f"{seq} {time.time()}\n")
            say(progress(seq))
        said.write(f"{seq + 1} {time.time()}\n{seq + 2} {time.time()}\n")
    return result(folder, seq + 1)


def model(arguments: list[str]) -> int:
    """The name of the model chooses what becomes of the look at it."""
    name = arguments[0].partition(":")[2]
    if name == tiny_model.REFUSED:
        problems = [["space.model", tiny_model.REFUSAL]]
        say(events.SearchFailed(error="ConfigError", message=tiny_model.REFUSAL, problems=problems))
        return 2
    if name == "vgg11":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "vgg13":
        time.sleep(600)
    if name == "vgg16":
        sys.stderr.write("Segmentation by cat\n")
        return 1
    facts = {} if name == "vgg19" else tiny_model.look(arguments)  # that one forgets to write it down
    sys.stdout.write(f"{json.dumps(facts)}\n")
    return 0


def pack(folder: Path, path: Path) -> int:
    if "bad" in path.name:
        message = "no images were found; expected one folder a class"
        say(events.SearchFailed(error="DataError", message=message, problems=[]))
        return 2
    if "empty" in path.name:
        message = "there are no images; expected one folder a class"
        problems = [["data.path", message]]
        say(events.SearchFailed(error="DataError", message=f"data.path: {message}", problems=problems))
        return 2
    say(events.DataProgress(what="packing", done=50, total=100, unit="images", eta_seconds=1.0))
    if "slow" in path.name:
        time.sleep(600)
    facts = {"name": "cats", "channels": 3, "class_names": ["cat", "dog"], "given": {"all": [60, 40]}}
    (folder / "facts.json").write_text("{}" if "odd" in path.name else json.dumps(facts))
    (folder / "thumbnails").mkdir()
    (folder / "thumbnails" / "0-0.png").write_bytes(b"\x89PNG")
    say(
        events.DataReady(
            name="cats", sha256="cd" * 32, image_size=32, channels=3, classes=["cat", "dog"],
            splits={"train": 70, "validation": 10, "test": 20}, counts={},
            left_out=[{"file": "notes.jpg", "reason": "not an image"}], left_out_total=1,
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
