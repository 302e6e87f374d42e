"""Promises of ``python -m nasengine``: exit codes, one JSON object a line on stdout, words for people on stderr."""

from __future__ import annotations

import json
import random
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished, Whole
from small import ROOT, VARIANTS, called, command, raw, surroundings, written

from nasengine import __main__ as command_line
from nasengine import export
from nasengine.events import ResultReady
from nasengine.outlook import outlook
from nasengine.search import search as real_search
from nasengine.splits import builtin_facts

DEADLINE = 240
SAME = ("architecture.json", "model.safetensors", "model.onnx")


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[dict], str]]:
    """The command line in this process: exit code, JSON lines of stdout, stderr."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: object) -> tuple[int, list[dict], str]:
        code = command_line.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, [json.loads(line) for line in said.out.splitlines()], said.err

    return run


# -- bad input --------------------------------------------------------------------------------------------------------

BAD = [
    ({"nmae": 1}, "nmae", "there is no such setting; did you mean 'name'?"),
    ({"search.epochs": "8"}, "search.epochs", "'8' is no whole number"),
    ({"data.dataset": "digit"}, "data.dataset", "'digit' is not a known data set; did you mean 'digits'?"),
    (
        {"target.value": 10},
        "target.value",
        "10 parameters are below what this space can surely reach; give at least {least:,}, or a smaller space (",
    ),
    (
        {"target.value": 10**7},
        "target.value",
        "10,000,000 parameters are more than the whole space has; give at most {full:,}, or a larger space (",
    ),
    ({"search.batch_size": 500}, "search.batch_size", "; use at most 128"),
    (
        {"strategy.stage_shares": [0.001]},
        "strategy.stage_shares",
        "0.001 of 658 parameters is below what the stage can reach; give at least 0.1",
    ),
    (
        {"target.also": [10], "search.epochs": 16},
        "target.also",
        "10 parameters are below what this space can surely reach; give at least {least:,}, or a smaller space (",
    ),
    ({"space.kind": "chains"}, "space.kind", "'chains' is not a known space; did you mean 'chain'?"),
    ({"data": {"dataset": "zip", "path": "/nowhere/images.zip"}}, "data.path", "/nowhere/images.zip"),
    (
        {"target.value": "inf"},
        "target.value",
        "inf is out of range; give a number of at least 1, or a percentage such as 40%",
    ),
]


@pytest.mark.parametrize(
    ("changes", "field", "sentence"), BAD, ids=lambda value: value if isinstance(value, str) and len(value) < 20 else ""
)
def test_bad_input_gives_one_message_that_names_the_field_and_the_mend(
    here: Callable[..., Any], tmp_path: Path, changes: dict, field: str, sentence: str
) -> None:
    from nasengine.config import parse

    look = outlook(parse(raw()), builtin_facts("digits"))
    sentence = sentence.format(least=look.smallest_size, full=look.full_size)
    code, lines, stderr = here("search", written(tmp_path, changes), "--out", tmp_path / "run")
    assert code == 2
    last = lines[-1]
    assert (last["kind"], last["error"] in ("ConfigError", "DataError")) == ("search_failed", True)
    ((named, text),) = last["problems"]
    assert named == field and sentence in text
    assert last["message"] == f"{field}: {text}"
    assert stderr.splitlines() == [f"error: {field}: {text}"]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read (No such file or directory); give the path of a JSON file"),
        (b"{", "is not valid JSON (Expecting property name"),
        (b"", "is not valid JSON (Expecting value"),
        (b"\xff\xfe{}", "is not valid JSON ("),
        (b"[" * 100_000, "is not valid JSON (maximum recursion depth exceeded"),
        (b'{"name": "a", "name": "b"}', "is not valid JSON ('name' is given twice)"),
        (b'{"name": "\\ud800"}', "is not valid JSON (one of its \\u escapes is half a character)"),
        (b"[1]", "the configuration must be a JSON object"),
        (b"null", "the configuration must be a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["search", "describe"])
def test_a_file_that_is_no_configuration_is_refused(
    here: Callable[..., Any], tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content)
    code, lines, stderr = here(name, path, *(["--out", tmp_path / "run"] if name == "search" else []))
    assert code == 2 and sentence in lines[-1]["message"] and sentence in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["search", "describe"])
@pytest.mark.parametrize(
    ("held", "reason"), [(None, "No such file or directory"), (b"no tensors, only words", "it does not begin with")]
)
def test_a_teachers_file_that_cannot_be_read_is_refused_before_images_are_looked_at(
    here: Callable[..., Any], tmp_path: Path, name: str, held: bytes | None, reason: str
) -> None:
    if held:
        (tmp_path / "oak.safetensors").write_bytes(held)
    method = {
        "kind": "dna", "teacher": "library", "teacher_model": "test_resnet", "teacher_weights": "file",
        "teacher_path": str(tmp_path / "oak.safetensors"),
    }  # fmt: skip
    images = {"data": {"dataset": "folder", "path": str(tmp_path / "nowhere")}, "search.epochs": 40}
    config = written(tmp_path, {"space": {"kind": "chain"}, "strategy": method, **images})
    code, (said,), stderr = here(name, config, *(("--out", tmp_path / "run") if name == "search" else ()))
    ((field, sentence),) = said["problems"]
    assert code == 2 and field == "strategy.teacher_path" and "Traceback" not in stderr
    assert f"the weights in oak.safetensors cannot be read ({reason}" in sentence


def test_a_folder_as_configuration_is_refused(here: Callable[..., Any], tmp_path: Path) -> None:
    code, lines, _ = here("describe", tmp_path)
    assert code == 2 and lines[-1]["message"].endswith("cannot be read (Is a directory); give the path of a JSON file")


def test_bad_input_by_the_real_command(tmp_path: Path) -> None:
    found = called("search", written(tmp_path, {"seed": "x"}), "--out", tmp_path / "run")
    assert (found.returncode, found.stderr) == (2, "error: seed: 'x' is no whole number; write one such as 12\n")
    (line,) = found.stdout.splitlines()
    assert json.loads(line) == {
        "kind": "search_failed",
        "seq": 1,
        "error": "ConfigError",
        "message": "seed: 'x' is no whole number; write one such as 12",
        "problems": [["seed", "'x' is no whole number; write one such as 12"]],
    }


@pytest.mark.parametrize(
    "arguments", [[], ["search"], ["search", "x.json"], ["dig"], ["describe", "x", "--out", "y"], ["export", "x"]]
)
def test_a_wrong_command_is_told_how_to_be_right(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.main(arguments)
    assert left.value.code == 2 and "usage: python -m nasengine" in capsys.readouterr().err


def test_another_search_s_folder_is_refused(here: Callable[..., Any], tiny_run: Finished, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.out, tmp_path / "run")
    code, lines, stderr = here("search", written(tmp_path, {"seed": 77}), "--out", tmp_path / "run")
    assert code == 2
    assert "holds a search with other settings; use another folder, or --fresh to start over" in stderr
    assert lines[-1]["problems"][0][0] == "baseline"


def test_a_damaged_checkpoint_is_a_failure_with_a_sentence(
    here: Callable[..., Any], tiny_run: Finished, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run.out, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK\x03\x04 not really")
    code, lines, stderr = here("search", tiny_run.out.parent / "config.json", "--out", tmp_path / "run")
    assert code == 1 and lines[-1]["error"] == "CheckpointError" and lines[-1]["problems"] == []
    assert stderr.rstrip().endswith("; start over with --fresh") and "checkpoint.pt cannot be read (" in stderr


def test_what_nobody_foresaw_still_ends_with_a_last_line(
    here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("nasengine.packing.load", lambda _data: 1 / 0)
    code, lines, stderr = here("search", written(tmp_path), "--out", tmp_path / "run")
    assert code == 1
    assert (lines[-1]["kind"], lines[-1]["error"]) == ("search_failed", "ZeroDivisionError")
    assert lines[-1]["message"] == "ZeroDivisionError: division by zero; this is a fault of Coppice, please report it"
    assert "Traceback" in stderr, "the developer needs it"


# -- a run that went well ---------------------------------------------------------------------------------------------


def test_a_finished_search_exits_with_zero_and_says_nothing_but_events(run: Finished) -> None:
    """Neither torch nor the ONNX exporter put a word between the lines."""
    assert run.code == 0, run.stderr
    lines = run.stdout.splitlines()
    assert all(set(json.loads(line)) > {"kind", "seq"} for line in lines)
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines == (run.out / "events.jsonl").read_text().splitlines()
    assert run.events[-1]["kind"] == "search_finished"
    assert run.stderr == ""


def test_a_finished_search_is_said_again_and_exits_with_zero(
    here: Callable[..., Any], tiny_run: Finished, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run.out, tmp_path / "run")
    code, lines, _ = here("search", tiny_run.out.parent / "config.json", "--out", tmp_path / "run")
    assert code == 0 and [line["kind"] for line in lines] == ["result_ready", "search_finished"]


def test_verify_finds_a_sound_result_sound(here: Callable[..., Any], run: Finished) -> None:
    code, (found,), _ = here("verify", run.out)
    assert code == 0 and found["ok"] is True and found["checks"]


def test_verify_finds_a_flipped_byte_and_exits_with_one(
    here: Callable[..., Any], tiny_run: Finished, tmp_path: Path
) -> None:
    for name in (*export.FILES, "SHA256SUMS"):
        folder = tmp_path / name
        shutil.copytree(tiny_run.result, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 0x10
        (folder / name).write_bytes(content)
        code, (found,), _ = here("verify", folder)
        assert code == 1 and found["ok"] is False and found["problems"], name


def test_verify_of_an_empty_folder_is_bad_input(here: Callable[..., Any], tmp_path: Path) -> None:
    code, lines, stderr = here("verify", tmp_path)
    assert code == 2 and "holds no result; give the folder of a finished search" in stderr
    assert lines[-1]["kind"] == "search_failed"


@pytest.mark.parametrize("gpus", [[], ["H100", "T4"]])
def test_devices_names_the_gpus_that_can_be_used(
    here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, gpus: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: gpus[number])
    assert here("devices")[:2] == (0, [{"gpus": gpus}])


def test_describe_says_what_a_form_needs(here: Callable[..., Any], config_file: Path) -> None:
    code, (found,), stderr = here("describe", config_file)
    assert code == 0 and stderr == ""
    assert found["feasible"] is True and found["problems"] == []
    assert found["smallest_size"] < found["target"] < found["full_size"] and found["metric"] == "params"
    assert found["config"]["search"] == {
        "epochs": 8,
        "batch_size": 32,
        "lr": 0.05,
        "weight_decay": found["config"]["search"]["weight_decay"],
    }
    assert set(found["choices"]) == {"operation", "filter", "weight"}
    assert set(found["estimate"]) == {
        "memory_mib", "seconds_cpu", "seconds_least", "seconds_most", "bytes_least", "bytes_most",
    }  # fmt: skip
    assert found["data"]["name"] == "digits" and sum(found["data"]["given"]["all"]) == 1797


def test_describe_tells_why_a_target_is_out_of_reach(here: Callable[..., Any], tmp_path: Path) -> None:
    code, (found,), _ = here("describe", written(tmp_path, {"target.value": 5}))
    assert code == 0 and found["feasible"] is False
    assert found["problems"][0][0] == "target.value"


def test_describe_warns_of_what_may_go_wrong_and_does_not_mind(here: Callable[..., Any], tmp_path: Path) -> None:
    code, (found,), _ = here("describe", written(tmp_path, {"target.value": "95%", "search.epochs": 200}))
    assert code == 0 and found["feasible"] is True and found["problems"] == []
    assert "95 % of the whole space" in dict(found["warnings"])["target.value"]


def test_describe_and_the_search_agree(here: Callable[..., Any], tiny_run: Finished) -> None:
    _, (found,), _ = here("describe", tiny_run.out.parent / "config.json")
    started = next(event for event in tiny_run.events if event["kind"] == "search_started")
    for key in ("metric", "target", "full_size", "smallest_size"):
        assert found[key] == started[key]
    assert found["config"] == json.loads((tiny_run.out / "config.json").read_text())


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_more_formats_are_written_and_agree(
    here: Callable[..., Any], tiny_run: Finished, tmp_path: Path, kind: str
) -> None:
    code, (found,), _ = here("export", tiny_run.out, "--format", kind, "--to", tmp_path / f"net.{kind}")
    assert code == 0 and found["format"] == kind and found["bytes"] == (tmp_path / f"net.{kind}").stat().st_size
    network = export.loaded(tiny_run.result)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(x)
        if kind == "pt2":
            again = torch.export.load(tmp_path / "net.pt2").module()(x)
        else:
            import onnxruntime

            again = torch.from_numpy(
                onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"images": x.numpy()})[0]
            )
    assert torch.allclose(expected, again, atol=1e-4)


def test_export_of_an_empty_folder_is_bad_input(here: Callable[..., Any], tmp_path: Path) -> None:
    code, _, stderr = here("export", tmp_path, "--format", "onnx")
    assert code == 2 and "holds no result; give the folder of a finished search" in stderr


# -- processes that are stopped and killed ----------------------------------------------------------------------------


class Attempt:
    """A real process of a search, read line by line with a deadline."""

    def __init__(self, config: Path, out: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            command("search", config, "--out", out, *options), cwd=ROOT, env=surroundings(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self.deadline = time.monotonic() + DEADLINE
        self.rest = b""

    def events(self) -> Iterator[dict[str, Any]]:
        stdout = self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, self.deadline - time.monotonic())):
                if not (chunk := stdout.read(65536)):
                    return
                *lines, self.rest = (self.rest + chunk).split(b"\n")
                yield from map(json.loads, lines)
        raise AssertionError("the process said nothing more within the deadline")

    def until(self, wanted: Callable[[dict], bool]) -> dict[str, Any]:
        for event in self.events():
            if wanted(event):
                return event
        raise AssertionError(f"ended before: {self.process.communicate()[1].decode()}")

    def ended(self) -> tuple[int, str]:
        """Exit code and stderr; what is still said on stdout is drained."""
        out, err = self.process.communicate(timeout=max(1.0, self.deadline - time.monotonic()))
        assert all(json.loads(line) for line in (self.rest + out).splitlines())
        return self.process.returncode, err.decode()


@contextmanager
def attempt(config: Path, out: Path, *options: str) -> Iterator[Attempt]:
    one = Attempt(config, out, *options)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        for pipe in (one.process.stdin, one.process.stdout, one.process.stderr):
            if pipe:
                pipe.close()


def position(out: Path) -> tuple[str, int]:
    saved = torch.load(out / "checkpoint.pt", weights_only=True)["position"]
    return saved["phase"], saved["stage"]


def numbered(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    return found


MOMENTS: list[Callable[[dict], bool]] = [
    lambda event: event["kind"] == "stage_started" and event["stage"] == 0,
    lambda event: event["kind"] == "stage_started" and event["stage"] == 1,
    lambda event: event["kind"] == "retrain_epoch" and event["network"] == "found",
    lambda event: event["kind"] == "retrain_epoch" and event["network"] == "random 1" and event["epoch"] == 2,
]


@pytest.mark.parametrize("moments", [MOMENTS[1::2], pytest.param(MOMENTS, marks=pytest.mark.long)], ids=["two", "all"])
def test_a_process_killed_in_every_phase_ends_with_the_very_same_files(
    moments: list[Callable[[dict], bool]], tiny_run: Finished, tmp_path: Path
) -> None:
    """SIGKILL after some event and a moment of chance: in either stage, in either retraining, and while publishing."""
    chance = random.Random(8)
    config, out = tiny_run.out.parent / "config.json", tmp_path / "run"
    for moment in moments:
        with attempt(config, out) as one:
            one.until(moment)
            until = time.monotonic() + chance.random() * 0.3
            while time.monotonic() < until and one.process.poll() is None:
                pass
            one.process.kill()
            one.process.wait()
            assert one.process.returncode == -signal.SIGKILL
    found = called("search", config, "--out", out)
    assert found.returncode == 0, found.stderr
    for name in SAME:
        assert (out / "result" / name).read_bytes() == (tiny_run.result / name).read_bytes(), name
    report = json.loads((out / "result" / "report.json").read_text())
    for key in ("accuracy", "baseline", "pruned", "regrown", "parity"):
        assert report[key] == tiny_run.report[key], key
    kinds = [event["kind"] for event in numbered(out)]
    assert kinds[-1] == "search_finished" and kinds.count("epoch_finished") == 8 and kinds.count("search_started") == 1


@pytest.mark.long
def test_a_process_killed_while_it_makes_a_family_ends_with_the_very_same_networks(
    whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    """SIGKILL in the stage of a further target, and when its network, the last, is trained: while publishing, about."""
    chance = random.Random(9)
    run, out = whole_of("family"), tmp_path / "run"
    config = written(tmp_path, VARIANTS["family"])
    smallest = min(event.report["target"]["value"] for event in run.of(ResultReady))
    moments: list[Callable[[dict], bool]] = [
        lambda event: event["kind"] == "stage_started" and event["stage"] == 2,
        lambda event: event["kind"] == "retrain_epoch" and event["network"] == f"at {smallest}",
    ]
    for moment in moments:
        with attempt(config, out) as one:
            one.until(moment)
            until = time.monotonic() + chance.random() * 0.3
            while time.monotonic() < until and one.process.poll() is None:
                pass
            one.process.kill()
            one.process.wait()
            assert one.process.returncode == -signal.SIGKILL
    found = called("search", config, "--out", out)
    assert found.returncode == 0, found.stderr
    for event in run.of(ResultReady):
        for name in SAME:
            assert (out / event.folder / name).read_bytes() == (run.folder / event.folder / name).read_bytes(), name
        assert export.verified(out / event.folder)["ok"]
    kinds = [event["kind"] for event in numbered(out)]
    assert kinds.count("result_ready") == 3 and kinds.count("retrain_epoch") == 3 and kinds[-1] == "search_finished"


STARVED = """
import resource, sys
from pathlib import Path
from nasengine import __main__ as command_line, search as conductor

search = conductor.search

def starved(*arguments, **options):
    for event in search(*arguments, **options):
        yield event
        if event.kind == "checkpoint_saved" and event.epoch == 1:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**23, -1))

conductor.search = starved
sys.exit(command_line.main(sys.argv[1:]))
"""


def test_memory_that_runs_out_is_a_sentence_and_the_checkpoint_goes_on(tmp_path: Path) -> None:
    """After the first epoch the process may take 8 MiB more; the whole network, in the second stage, wants far more."""
    config, out = written(tmp_path, {"space.channels": 16, "data.image_size": 32, "data.limit": 100}), tmp_path / "run"
    search = [sys.executable, "-c", STARVED, "search", str(config), "--out", str(out)]
    found = subprocess.run(search, cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stderr
    sentence = (
        "the device ran out of memory; lower search.batch_size, space.channels or runtime.memory_share, or take a "
        "smaller model, in a new search; the last checkpoint of this one is intact"
    )
    assert found.stderr == f"error: {sentence}\n"
    last = json.loads(found.stdout.splitlines()[-1])
    assert (last["kind"], last["error"], last["message"]) == ("search_failed", "TrainingError", sentence)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["position"]["phase"] == "search"
    with attempt(config, out) as again:
        assert next(again.events())["seq"] == saved["seq"] + 1
        again.until(lambda event: event["kind"] == "checkpoint_saved")
    assert torch.load(out / "checkpoint.pt", weights_only=True)["seq"] > saved["seq"]


def test_a_signal_saves_and_exits_with_three(tmp_path: Path) -> None:
    config, out = written(tmp_path), tmp_path / "run"
    with attempt(config, out) as one:
        one.until(lambda event: event["kind"] == "stage_started" and event["stage"] == 1)
        one.process.send_signal(signal.SIGTERM)
        assert one.ended() == (3, "stopped on request (SIGTERM)\n")
    assert position(out) == ("search", 1)
    numbered(out)


def test_a_signal_while_the_engine_still_loads_is_obeyed_too(tmp_path: Path) -> None:
    """Torch takes seconds to import; a supervisor may change its mind before. The interpreter tells what it imports."""
    search = command("search", written(tmp_path), "--out", tmp_path / "run")
    process = subprocess.Popen(
        [search[0], "-X", "importtime", *search[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stderr:
            if "torch." in line:
                process.send_signal(signal.SIGINT)
                break
        said = [line for line in process.stderr if not line.startswith("import time:")]
        assert process.stdout.read() == ""
    assert (process.returncode, said) == (3, ["stopped on request (SIGINT)\n"])


def test_a_supervisor_cancels_by_a_line(tmp_path: Path) -> None:
    config, out = written(tmp_path), tmp_path / "run"
    with attempt(config, out, "--supervised") as one:
        one.until(lambda event: event["kind"] == "stage_started")
        one.process.stdin.write(b"dance\ncancel\n")
        code, stderr = one.ended()
    assert code == 3
    assert stderr.splitlines() == [
        "unknown command 'dance'; known are: pause, stop, finish, cancel",
        "stopped on request (cancel)",
    ]


def test_a_supervisor_pauses_by_a_line(tmp_path: Path) -> None:
    config, out = written(tmp_path), tmp_path / "run"
    with attempt(config, out, "--supervised") as one:
        one.until(lambda event: event["kind"] == "epoch_finished")
        one.process.stdin.write(b"pause\n")
        assert one.ended() == (3, "stopped on request (pause)\n")
    assert position(out)[0] == "search"


def test_a_supervisor_ends_a_run_early_by_a_line_and_gets_a_whole_result(tmp_path: Path) -> None:
    config, out = written(tmp_path), tmp_path / "run"
    with attempt(config, out, "--supervised") as one:
        one.until(lambda event: event["kind"] == "stage_started" and event["stage"] == 1)
        one.process.stdin.write(b"stop\nfinish\n")
        one.until(lambda event: event["kind"] == "search_finished")
        assert one.process.wait(DEADLINE) == 0
    report = json.loads((out / "result" / "report.json").read_text())
    assert report["ended_early"][0] == "search" and report["ended_early"][-1] == "retraining"
    assert called("verify", out).returncode == 0


def test_the_end_of_the_supervisor_saves_and_exits_with_three(tmp_path: Path) -> None:
    config, out = written(tmp_path), tmp_path / "run"
    with attempt(config, out, "--supervised") as one:
        one.until(lambda event: event["kind"] == "epoch_finished")
        one.process.stdin.close()
        one.process.stdin = None
        code, stderr = one.ended()
    assert (code, stderr) == (3, "stopped on request (the supervisor is gone)\n")
    assert position(out)[0] == "search"


def test_a_supervised_run_ends_well_while_its_supervisor_still_listens(tiny_run: Finished, tmp_path: Path) -> None:
    """The thread that waits for commands must not spoil the end of the process."""
    shutil.copytree(tiny_run.out, tmp_path / "run")
    with attempt(tiny_run.out.parent / "config.json", tmp_path / "run", "--supervised") as one:
        one.until(lambda event: event["kind"] == "search_finished")
        assert one.process.wait(DEADLINE) == 0
        assert one.process.stderr.read() == b""


def test_fresh_starts_over_by_the_command_line(
    here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[bool] = []

    def watched(*arguments: Any, fresh: bool, **options: Any) -> Any:
        seen.append(fresh)
        return iter(())

    monkeypatch.setattr("nasengine.search.search", watched)
    for options in ([], ["--fresh"]):
        here("search", written(tmp_path), "--out", tmp_path / "run", *options)
    assert seen == [False, True] and real_search is not watched


def test_a_reader_that_walks_away_ends_the_run_quietly(tmp_path: Path) -> None:
    with attempt(written(tmp_path), tmp_path / "run") as one:
        one.until(lambda event: event["kind"] == "stage_started")
        one.process.stdout.close()
        assert one.process.wait(DEADLINE) == 1
        assert one.process.stderr.read() == b""


# -- the whole thing --------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_quick_preset_on_digits_keeps_its_promise(digits_run: Finished) -> None:
    """At most 20,000 parameters, at least 97 % of that, 95 % of the test digits, all levels pruned and regrown."""
    assert digits_run.code == 0, digits_run.stderr
    report = digits_run.report
    assert 19_400 <= report["achieved"]["params"] <= 20_000
    assert report["accuracy"]["test"] >= 0.95
    commits = [event for event in digits_run.events if event["kind"] == "committed"]
    for level in ("operation", "filter", "weight"):
        assert sum(event["pruned"][level] for event in commits) >= 1, level
    assert sum(event["regrown"][level] for event in commits for level in event["regrown"]) >= 1
