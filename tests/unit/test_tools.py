"""What the Makefile runs besides the two halves."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tools import audit, cuda_stubs, locks, python38, python38_ipu

ROOT = pathlib.Path(__file__).parents[2]


def run(code, *arguments, **env):
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=str(ROOT),
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return answer.returncode, answer.stdout


def test_without_python_38_its_suites_are_skipped_aloud(tmp_path):
    code, output = run(
        "import sys; from tools.python38 import main; sys.exit(main())",
        PATH=str(tmp_path),
        PYENV_ROOT=str(tmp_path),
        PYTHON38="",
    )
    assert code == 0
    assert output.startswith("SKIPPED the supervisor's suites on Python 3.8: ")


def test_a_python_that_is_not_38_or_does_not_run_is_not_taken(tmp_path):
    shim = tmp_path / "python3.8"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert [python38.works(path) for path in (sys.executable, str(shim), str(tmp_path / "absent"), "")] == 4 * [False]


def test_pyenvs_newest_38_is_found(tmp_path, monkeypatch):
    for version in ("3.8.1", "3.8.18", "3.9.0"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
        (tmp_path / "versions" / version / "bin" / "python").touch()
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    found = [path for path in python38.candidates() if path.startswith(str(tmp_path))]
    assert [pathlib.Path(path).parts[-3] for path in found] == ["3.8.18", "3.8.1"]


AUDIT = "from tools import audit; print(audit.vulnerabilities('demo.txt'))"
KNOWN = {"name": "gt", "version": "0.1.0", "vulns": [{"id": "X-1", "fix_versions": ["0.2.0"]}]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"dependencies": [KNOWN]}, ["could check 1 of 1 packages", "demo.txt: gt 0.1.0: X-1, fixed in 0.2.0"]),
        ({"dependencies": [{**KNOWN, "vulns": []}]}, ["could check 1 of 1 packages", "[]"]),
        ({"dependencies": [{"name": "gt", "skip_reason": "unknown"}]}, ["could check 0 of 1", "were NOT checked"]),
        (None, ["could not be asked: no network", "could check 0 of 1", "NO vulnerability service", "[]"]),
    ],
)
def test_audit_says_how_many_packages_it_could_check(tmp_path, answer, said):
    (tmp_path / "pip_audit").mkdir()
    (tmp_path / "pip_audit" / "__init__.py").touch()
    source = "import sys\nsys.exit('no network')" if answer is None else "print({!r})".format(json.dumps(answer))
    (tmp_path / "pip_audit" / "__main__.py").write_text(source)
    code, output = run(AUDIT, PYTHONPATH=str(tmp_path))
    assert code == 0
    assert [part for part in said if part not in output] == []


@pytest.mark.parametrize(
    ("vulnerable", "faults", "said"),
    [
        ("supervisor-ipu.txt", 0, "VULNERABLE supervisor-ipu.txt: gt 0.1.0: X-1"),
        ("ipu-standin.txt", 0, "fail nothing: optimum-graphcore 0.7.1 is its last release"),
        ("supervisor-py38.txt", 1, "VULNERABLE supervisor-py38.txt: gt 0.1.0: X-1"),
    ],
)
def test_what_is_known_of_optimum_graphcores_packages_is_shown_and_fails_nothing(tmp_path, vulnerable, faults, said):
    (tmp_path / "pip_audit").mkdir()
    (tmp_path / "pip_audit" / "__init__.py").touch()
    clean = json.dumps({"dependencies": [{**KNOWN, "vulns": []}]})
    source = "import sys; print({!r} if any({!r} in word for word in sys.argv) else {!r})"
    (tmp_path / "pip_audit" / "__main__.py").write_text(
        source.format(json.dumps({"dependencies": [KNOWN]}), vulnerable, clean)
    )
    code = "from tools import audit; print(len(audit.vulnerability_faults({'CI': 'true'})), 'faults')"
    status, output = run(code, PYTHONPATH=str(tmp_path))
    assert status == 0
    assert f"{faults} faults" in output
    assert said in output


def test_what_is_installed_and_not_as_locked_is_a_fault(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements").mkdir()
    for name in audit.INSTALLED:
        (tmp_path / "requirements" / name).write_text("pytest==0.0.1\nno-such-package==1.0\n")
    monkeypatch.chdir(tmp_path)
    first, second = audit.installed_faults()
    assert first == "no-such-package 1.0 is locked and not installed"
    assert second.startswith("pytest: 0.0.1 locked, ")
    assert "0 of 2 packages" in capsys.readouterr().out


def test_locks_are_resolved_without_the_settings_of_this_machine(tmp_path):
    """`make lock` ignores pip's and uv's own settings: here they point nowhere, and every name is still asked for."""
    seen = tmp_path / "uv" / "__main__.py"
    seen.parent.mkdir()
    (seen.parent / "__init__.py").touch()
    seen.write_text("import os, sys; print(sorted(n for n in os.environ if n[:3] in ('PIP', 'UV_')), *sys.argv[1:])")
    code = "import sys; from tools import locks; sys.argv = ['locks']; locks.main()"
    _, output = run(
        code, PYTHONPATH=str(tmp_path), PIP_INDEX_URL="file:///x", PIP_FIND_LINKS="/x", UV_INDEX="file:///x"
    )
    lines = [line for line in output.splitlines() if line.startswith("[")]
    assert len(lines) == len(locks.SOURCES)
    assert all(line.startswith("[] pip compile") and "--no-config" in line for line in lines)


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_make_says_what_is_missing_when_there_is_no_python_311(tmp_path):
    shutil.copy(str(ROOT / "Makefile"), str(tmp_path))
    (tmp_path / "requirements").mkdir()
    for name in ("service.txt", "supervisor-cpu.txt", "torch.txt", "demo.txt", "dev.txt"):
        (tmp_path / "requirements" / name).touch()
    answer = subprocess.run(
        ["make", "run", "PYTHON311="], cwd=str(tmp_path), capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 2
    assert "Python 3.11 is needed" in answer.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("environ", "fails"),
    [({}, False), ({"CI": "true"}, True), ({"AUDIT_STRICT": "1"}, True), ({"CI": "true", "AUDIT_STRICT": ""}, False)],
)
def test_a_known_vulnerability_fails_the_check_in_ci_and_where_it_is_asked_for(environ, fails):
    assert audit.strict(environ) is fails


def test_an_environment_is_made_again_when_a_lock_or_a_step_changes(tmp_path):
    lock = tmp_path / "some.txt"
    lock.write_text("one==1\n")
    steps = [["-r", str(lock)], ["torch==2.0.1"]]
    first = python38.fingerprint(steps)
    assert python38.fingerprint(steps) == first
    assert python38.fingerprint([steps[0], ["torch==2.0.0"]]) != first
    lock.write_text("one==2\n")
    assert python38.fingerprint(steps) != first


def test_without_python_38_the_suites_asked_for_by_name_fail(tmp_path):
    code, output = run(
        "import sys; from tools.python38_ipu import main; sys.exit(main())",
        PATH=str(tmp_path),
        PYENV_ROOT=str(tmp_path),
        PYTHON38="",
    )
    assert code == 1
    assert output.startswith("NOT RUN on Python 3.8: ")


def test_every_lock_of_the_ipu_environment_exists():
    named = [word for step in python38_ipu.STEPS for word in step if word.endswith(".txt")]
    assert [name for name in named if not (ROOT / name).is_file()] == []


def link(path, source, *flags):
    """Link a shared library from C, to be found by its file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = path.with_suffix(".c")
    code.write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}", "-o", str(path), str(code), *flags]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.skipif(
    not all(map(shutil.which, python38_ipu.TOOLS)), reason="no {} here".format(", ".join(python38_ipu.TOOLS))
)
def test_a_library_linked_with_cuda_loads_and_fails_when_it_calls_it(tmp_path):
    """The test's own `torch` wants a versioned function of cuBLAS and one of NCCL without a version."""
    cublas, nccl = tmp_path / "cuda" / "libcublas.so.11", tmp_path / "cuda" / "libnccl.so.2"
    torch, versions = tmp_path / "torch" / "lib" / "libtorch.so", tmp_path / "map"
    versions.write_text("libcublas.so.11 { global: *; };")
    link(cublas, "int cublasGo(void) { return 0; }", f"-Wl,--version-script={versions}")
    link(nccl, "int ncclGo(void) { return 0; }")
    calls = "int cublasGo(void); int ncclGo(void); int go(void) { return cublasGo() + ncclGo(); }"
    link(torch, calls, str(cublas), str(nccl), "-Wl,-rpath,$ORIGIN")
    call = [sys.executable, "-c", "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).go())", str(torch)]
    assert subprocess.run(call, capture_output=True, check=False, timeout=60).returncode
    assert cuda_stubs.build(tmp_path) == [cublas.name, nccl.name]
    answer = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60)
    assert int(answer.stdout) == 2 * cuda_stubs.FAILURE
    assert cuda_stubs.build(tmp_path) == []
