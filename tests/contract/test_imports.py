"""The walls between the parts: what the running halves load, and who imports whom."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Set

import pytest

ROOT = pathlib.Path(__file__).parents[2]
#: What neither half may load: only replicas compute.
HEAVY = {"torch", "transformers", "tokenizers", "numpy", "safetensors", "huggingface_hub", "poptorch", "optimum"}
WEB = {"flask", "werkzeug", "gunicorn", "service"}
#: Modules that `protocol.client` may add to a bare interpreter (measured: 160 on Python 3.11, most of them pyzmq's).
CLIENT_MODULES = 260


def loaded_by(statement: str) -> Set[str]:
    """Return the names of all modules in a fresh interpreter after `statement`."""
    code = "import json, sys\n{}\nprint(json.dumps(sorted(sys.modules)))".format(statement)
    answer = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), stdout=subprocess.PIPE, check=True, timeout=60)
    return set(json.loads(answer.stdout.decode().splitlines()[-1]))


def packages(modules: Set[str]) -> Set[str]:
    return {module.split(".")[0] for module in modules}


@pytest.mark.service
def test_web_half_loads_no_torch_transformers_or_numpy():
    modules = loaded_by("import service.wsgi")
    assert "flask" in packages(modules)
    assert packages(modules) & HEAVY == set()
    inner = {module.split(".")[1] for module in modules if module.startswith("ipu_supervisor.")}
    assert inner <= {"protocol", "models", "config", "endpoints", "layout", "schemas"}


@pytest.mark.parametrize("module", ["ipu_supervisor.cli", "ipu_supervisor.loop", "ipu_supervisor.launchers.local"])
def test_daemon_loads_no_torch_transformers_numpy_or_web_framework(module):
    modules = loaded_by("import " + module)
    assert module in modules
    assert packages(modules) & (HEAVY | WEB) == set()


def test_client_import_loads_little():
    modules = loaded_by("import ipu_supervisor.protocol.client") - loaded_by("pass")
    own = {module for module in modules if module.startswith("ipu_supervisor")}
    assert own <= {"ipu_supervisor", "ipu_supervisor.protocol"} | {
        "ipu_supervisor.protocol." + path.stem for path in (ROOT / "ipu_supervisor/protocol").glob("*.py")
    }
    assert len(modules) < CLIENT_MODULES
    assert packages(modules) & (HEAVY | WEB | {"marshmallow", "dotenv"}) == set()


@pytest.mark.service
def test_walls_stand():
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.service
@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("service/errors.py", "import ipu_supervisor.core.backlog"),
        ("service/errors.py", "from ipu_supervisor import planted"),
        ("service/errors.py", "import torch"),
        ("ipu_supervisor/protocol/errors.py", "import ipu_supervisor.config"),
        ("ipu_supervisor/protocol/errors.py", "import service.errors"),
        ("ipu_supervisor/core/backlog.py", "import ipu_supervisor.config"),
        ("ipu_supervisor/core/backlog.py", "from ipu_supervisor.models import base"),
        ("ipu_supervisor/config.py", "import transformers"),
        ("ipu_supervisor/models/echo.py", "import torch"),
        ("ipu_supervisor/config.py", "import flask"),
        ("ipu_supervisor/config.py", "import service.settings"),
    ],
)
def test_planted_bad_import_is_found(file, statement, tmp_path):
    for name in ("service", "ipu_supervisor", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(str(ROOT / "pyproject.toml"), str(tmp_path))
    (tmp_path / "ipu_supervisor/planted.py").write_text("")
    with (tmp_path / file).open("a") as source:
        source.write("\n\ndef planted():\n    {}\n".format(statement))
    answer = lint(tmp_path)
    assert answer.returncode == 1, answer.stdout
    assert re.search(r"[1-9] broken", answer.stdout)


def lint(folder: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    return subprocess.run(
        command, cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
