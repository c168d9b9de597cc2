"""The deployment's files, read by the linters of their kinds. No finding is accepted that is not explained in place.

The linters come from requirements/lint.txt and live in an environment of their own, made once for each version of it.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.deploy.engine import cache_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements/lint.txt"
#: Four spaces, operators at the start of a line, cases indented: as in all of this project's shell.
SHFMT = ("shfmt", "--indent=4", "--binary-next-line", "--case-indent", "--diff")
#: A finding may be silenced by one of these, and only with its reason in the same line.
SILENCED = re.compile(r"#\s*(shellcheck disable|hadolint ignore|zizmor: ignore)\S*=?\S*(?P<reason>.*)")


def listed() -> list[pathlib.Path]:
    """Return the repository's files, also those that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def is_shell(path: pathlib.Path) -> bool:
    """Say whether a file is a shell script."""
    with path.open("rb") as file:
        return path.suffix == ".sh" or re.match(rb"#!.*\b(ba)?sh\b", file.readline()) is not None


FILES = listed()
SHELL = [path for path in FILES if is_shell(path)]
WORKFLOWS = [path for path in FILES if path.parent == ROOT / ".github/workflows"]
COMPOSE = [path for path in FILES if re.fullmatch(r"compose.*\.ya?ml", path.name) and not path.is_symlink()]
UNITS = [path for path in FILES if path.parent == ROOT / "deploy/systemd" and path.suffix == ".service"]


@pytest.fixture(scope="module")
def lint():
    """Return `lint(*command)`: runs a linter in the repository and returns its exit code and what it said."""
    venv = cache_folder() / f"lint-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if not (venv / "complete").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--requirement", str(LOCK)], check=True)
        (venv / "complete").touch()

    def run(*command, cwd=ROOT):
        environ = {**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, env=environ, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def clean(answer):
    code, said = answer
    assert code == 0, said


def test_shellcheck(lint):
    clean(lint("shellcheck", *SHELL))


def test_shfmt(lint):
    clean(lint(*SHFMT, *SHELL))


def test_actionlint(lint):
    clean(lint("actionlint", *WORKFLOWS))


def test_zizmor(lint):
    clean(lint("zizmor", "--offline", "--no-progress", "--quiet", "--persona=pedantic", ROOT / ".github"))


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflow_schemas(lint, schema):
    clean(lint("check-jsonschema", "--builtin-schema", schema, *WORKFLOWS))


def test_compose_schema(lint, tmp_path):
    """The schema does not know the two tags with which a later file replaces what an earlier one says."""
    copies = [tmp_path / path.name for path in COMPOSE]
    for path, copy in zip(COMPOSE, copies, strict=True):
        copy.write_text(re.sub(r"!(reset|override) ", "", path.read_text(encoding="utf-8")), encoding="utf-8")
    clean(lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *copies))


def test_hadolint(lint):
    clean(lint("hadolint", ROOT / "Dockerfile"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_exposure(lint, unit):
    """At most 2.0; the running units are measured in on_vm/."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    clean(lint("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit))


def test_there_is_something_to_read():
    names = {path.name for path in [*SHELL, *WORKFLOWS, *COMPOSE, *UNITS]}
    assert {"remote.sh", "run", "install.sh", "deploy.yml", "stop.yml", "ci.yml", "compose.yaml"} <= names
    assert {"model-server-supervisor.service", "model-server-web@.service"} <= names


def test_scripts_can_be_run():
    assert [path for path in SHELL if not os.access(path, os.X_OK)] == []


def test_what_is_silenced_is_explained():
    read = [*SHELL, *WORKFLOWS, ROOT / "Dockerfile"]
    silenced = [(path.name, match) for path in read for match in SILENCED.finditer(path.read_text(encoding="utf-8"))]
    assert [name for name, match in silenced if len(match["reason"].split()) < 3] == []


BAD_WORKFLOW = "on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - uses: actions/checkout@v4\n"


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("a.sh", "#!/bin/sh\nrm $1\n", ["shellcheck"]),
        ("a.sh", "#!/bin/sh\nif  true; then\n  :\nfi\n", SHFMT),
        ("a.yml", BAD_WORKFLOW.replace("uses:", "run: ${{ secret.x }} #"), ["actionlint"]),
        ("a.yml", BAD_WORKFLOW, ["zizmor", "--offline", "--no-progress"]),
        ("a.yml", BAD_WORKFLOW, ["check-jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout"]),
        ("a.yml", "services: {a: {imag: b}}\n", ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"]),
        ("Dockerfile", "FROM debian\nRUN cd /tmp\n", ["hadolint"]),
    ],
    ids=lambda value: value[0] if isinstance(value, (list, tuple)) else "",
)
def test_each_linter_is_awake(lint, tmp_path, name, text, command):
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / name).write_text(text, encoding="utf-8")
    code, said = lint(*command, folder / name, cwd=tmp_path)
    assert code not in (0, 127)
    assert "a.sh" in said or "a.yml" in said or "Dockerfile" in said
