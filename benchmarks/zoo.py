"""How far the models of timm and torchvision can be narrowed, each in a process of its own with a minute's time.

The smallest of each family, at a small image size where it allows one. A model passes (each group proved in fp64) or is
refused with a reason; nothing may take longer than its time.

    python -m benchmarks.zoo                        # 30 to 60 minutes on one core
    python -m benchmarks.zoo --only resnet vit --json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasengine.narrowing import kind

SECONDS = 60
"""For all of a model, the start of its process and its building included."""
RESERVE = 15
"""For the start of the process and the building, before its own time begins."""

NAMED = """
torchvision:resnet18:32 timm:resnet18:32 torchvision:resnet50:32 timm:resnet50:32 torchvision:resnext50_32x4d:32
timm:resnext50_32x4d:32 torchvision:regnet_x_400mf:32 timm:regnetx_002:32 torchvision:regnet_y_400mf:32
timm:regnety_002:32 torchvision:mobilenet_v2:32 timm:mobilenetv2_050:32 torchvision:mobilenet_v3_small:32
timm:mobilenetv3_small_050:64 timm:mobilenetv4_conv_small:64 torchvision:efficientnet_b0:32 timm:efficientnet_b0:32
timm:efficientnetv2_rw_t:32 torchvision:densenet121:32 timm:densenet121:32 torchvision:convnext_tiny:32
timm:convnext_atto:32 timm:convnextv2_atto:32 torchvision:vgg11_bn:32 timm:vgg11_bn:32 timm:deit_tiny_patch16_224:64
timm:vit_tiny_patch16_224:64 timm:mixer_s32_224:64 timm:mobilevit_xxs:64 timm:ghostnet_050:64
torchvision:googlenet:64 torchvision:inception_v3:96 timm:dla34:32 timm:repvgg_a0:32 timm:mobileone_s0:32
timm:hrnet_w18_small:64 timm:fastvit_t8:64 torchvision:vit_b_32:64 timm:poolformer_s12:64 timm:caformer_s18:64
timm:cspdarknet53:64 timm:res2net50_26w_4s:64 timm:levit_128s:224 timm:eva02_tiny_patch14_224:56
timm:coat_lite_tiny:64 timm:edgenext_xx_small:64 timm:xcit_nano_12_p16_224:64 timm:swin_tiny_patch4_window7_224:56
torchvision:shufflenet_v2_x0_5:32 torchvision:swin_t:56 timm:maxvit_nano_rw_256:64 timm:efficientformer_l1:224
"""
"""Those that Torch-Pruning was tried on before: 31 it sliced, 14 it failed on, 1 of which nothing was known."""
MORE = """
torchvision:alexnet:64 torchvision:squeezenet1_1:64 torchvision:mnasnet0_5:32 torchvision:swin_v2_t:64
torchvision:maxvit_t:224 timm:resnest14d:64 timm:skresnet18:64 timm:selecsls42:64 timm:darknet53:64
timm:vovnet39a:64 timm:nf_resnet26:64 timm:dm_nfnet_f0:64 timm:tinynet_e:64 timm:lcnet_050:64 timm:hardcorenas_a:64
timm:rexnet_100:64 timm:mixnet_s:64 timm:xception41:64 timm:inception_next_atto:64 timm:resmlp_12_224:64
timm:gmlp_ti16_224:64 timm:pit_ti_224:224 timm:cait_xxs24_224:64 timm:visformer_tiny:224 timm:tiny_vit_5m_224:64
timm:pvt_v2_b0:64 timm:twins_svt_small:64 timm:crossvit_9_240:240 timm:convit_tiny:64 timm:beit_base_patch16_224:64
timm:efficientvit_b0:64 timm:efficientvit_m0:224 timm:repvit_m0_9:64 timm:starnet_s1:64 timm:ghostnetv2_100:64
timm:hgnetv2_b0:64 timm:focalnet_tiny_srf:64 timm:davit_tiny:64 timm:nextvit_small:64 timm:gcresnext26ts:64
timm:halonet26t:256 timm:botnet26t_256:256 timm:convmixer_768_32:64 timm:nest_tiny:224 timm:volo_d1_224:224
timm:mvitv2_tiny:64 timm:fasternet_t0:64 timm:shvit_s1:224 timm:bat_resnext26ts:256 timm:semnasnet_075:32
"""


HEAD = """\
| model | groups | frozen | reach | narrowest | certificate | seconds (CPU) |
|---|---|---|---|---|---|---|"""


def asked(spec: str) -> dict[str, Any]:
    """One row: what the command line says of a model, or why it refuses it."""
    library, name, size = spec.split(":")
    command = [sys.executable, "-m", "nasengine", "model", f"{library}:{name}", "--image-size", size, "--json"]
    began, worked = time.monotonic(), _cpu_seconds()
    process = subprocess.Popen(
        [*command, "--seconds", str(SECONDS - RESERVE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # with the process that it starts it is a group, which ends as one
    )
    try:
        said = json.loads(process.communicate(timeout=SECONDS)[0].splitlines()[-1])
    except subprocess.TimeoutExpired:
        said = {"message": f"no answer within {SECONDS} seconds"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    spent = {"seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds() - worked}
    return {"model": spec, **spent, **_row(said)}


def _cpu_seconds() -> float:
    """Of all processes that were started here and have ended: on a busy machine seconds by the clock say little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(said: dict[str, Any]) -> dict[str, Any]:
    if "message" in said:
        return {"refused": said["message"]}
    return {
        "groups": len(said["groups"]),
        "frozen": len(said["frozen"]),
        "reach": said["reach"],
        "least": said["least"],
        "difference": said["difference"],
        "reasons": dict(Counter(kind(one["reason"]) for one in said["frozen"])),
    }


def summary(found: Sequence[dict[str, Any]]) -> str:
    refused = sum("refused" in row for row in found)
    whole = sum(row.get("groups") == 0 for row in found)
    slow = [row["model"] for row in found if row["seconds"] > SECONDS + 1]
    return (
        f"{len(found) - refused - whole} of {len(found)} models can be narrowed, {whole} without a group that holds, "
        f"{refused} refused; {'over their time: ' + ', '.join(slow) if slow else 'none took longer than its time'}"
    )


def told(row: dict[str, Any]) -> str:
    start = f"| {row['model']} |"
    end = f" {row['seconds']:.0f} ({row['cpu_seconds']:.0f}) |"
    if "refused" in row:
        return f"{start} refused: {row['refused']} | | | | |{end}"
    why = "; ".join(f"{count} {reason}" for reason, count in row["reasons"].items())
    return (
        f"{start} {row['groups']} | {row['frozen']}{f' ({why})' if why else ''} | {row['reach']:.0%} | "
        f"{row['least']:.1%} | {row['difference']:.0e} |{end}"
    )


def _write_names() -> int:
    from nasengine import models, zoo

    file = Path(models.__file__).with_name("model_names.json")
    file.write_text(json.dumps({library: zoo.installed(library) for library in models.LIBRARIES}, indent=0) + "\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PART", nargs="+", help="models whose name has one of these parts")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--names", action="store_true", help="only write down what models there are")
    parsed = parser.parse_args()
    if parsed.names:
        return _write_names()
    specs = [spec for spec in (NAMED + MORE).split() if not parsed.only or any(part in spec for part in parsed.only)]
    if not parsed.json:
        print(HEAD)
    found = []
    for spec in specs:
        found.append(asked(spec))
        print(json.dumps(found[-1]) if parsed.json else told(found[-1]), flush=True)
    print(summary(found), file=sys.stderr if parsed.json else sys.stdout)
    return any(row["seconds"] > SECONDS + 1 for row in found)


if __name__ == "__main__":
    sys.exit(main())
