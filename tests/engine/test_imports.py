"""Every module imports, and what must start fast imports nothing heavy."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules(package: str) -> list[str]:
    """Names of all modules below a package, found as files, so that nothing is imported yet."""
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


LOADED = """
import django, importlib, sys
django.setup()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*{name.split(".")[0] for name in sys.modules})
"""


def loaded_by(names: list[str], data: Path) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing these modules."""
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "webapp.settings", "DATA_DIR": str(data)}
    command = [sys.executable, "-c", LOADED, *names]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


HEAVY = {"torch", "torchvision", "sklearn", "numpy", "onnx", "onnxruntime", "timm", "torch_pruning"}


@pytest.mark.parametrize("name", modules("nasengine") + modules("webapp"))
def test_imports(name: str) -> None:
    importlib.import_module(name)


def test_settings_and_config_import_nothing_heavy(tmp_path: Path) -> None:
    assert not loaded_by(["webapp.settings", "nasengine.config"], tmp_path) & HEAVY


def test_no_module_of_the_web_application_imports_anything_heavy(tmp_path: Path) -> None:
    assert not loaded_by(modules("webapp"), tmp_path) & HEAVY


def test_models_of_others_are_not_loaded_before_one_is_asked_for(tmp_path: Path) -> None:
    names = [name for name in modules("nasengine") if not name.endswith("__main__")]
    assert not loaded_by(names, tmp_path) & {"timm", "torchvision", "torch_pruning"}


SOURCES = sorted(path.relative_to(ROOT) for root in ("nasengine", "webapp") for path in (ROOT / root).rglob("*.py"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
SAFE = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_is_unpickled(path: Path) -> None:
    """Files come from strangers: checkpoints are read as tensors alone, and nothing else can bring code along."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not UNPICKLERS & {getattr(node, "module", None), *(alias.name for alias in node.names)}
        if isinstance(node, ast.Call) and (safe := SAFE.get(ast.unparse(node.func))):
            assert safe in {(given.arg, ast.unparse(given.value)) for given in node.keywords}
