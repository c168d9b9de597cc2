"""Every lock resolves to the same packages everywhere, and names no machine."""

import pathlib
import re

import pytest

from tools import locks

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "requirements").glob("*.txt"))
HASH = "--hash=sha256:" + 64 * "0"


def read(name: str) -> str:
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_lock_has_no_faults(path):
    assert locks.faults(path.read_text(encoding="utf-8"), path.name not in locks.UNHASHED) == []


@pytest.mark.parametrize(
    "planted",
    [
        f"torch==2.13.0+cpu {HASH}",
        f"numpy==2.4.6+local.1 {HASH}",
        f"numpy>=2 {HASH}",
        f"numpy==2.* {HASH}",
        f"numpy===2.4.6 {HASH}",
        "numpy",
        "numpy==2.4.6",
        "numpy==2.4.6 --hash=sha256:00",
        f"numpy[all]==2.4.6 {HASH}",
        "numpy @ https://packages.example/numpy.whl",
        f"numpy @ file:///srv/wheels/numpy.whl {HASH}",
        "./wheels/numpy-2.4.6.whl",
        "/srv/wheels/numpy-2.4.6.whl",
        "~/wheels/numpy-2.4.6.whl",
        "-e .",
        "-r other.txt",
        "-f wheels",
        "--find-links=wheels",
        "--find-links /srv/wheels",
        "-i https://packages.example/simple",
        "--index-url https://packages.example/simple",
        "--extra-index-url=file:///srv/simple",
        "--trusted-host packages.example",
        f"numpy==2.4.6 {HASH} # from https://packages.example",
        "# via -r /srv/project/base.in",
        f"nvidia-cublas-cu13==13.0 {HASH}",
        f"triton==3.7.0 {HASH}",
        f"torch==2.13.0 {HASH}",
    ],
)
def test_planted_fault_is_found(planted):
    assert locks.faults(read("service.txt")) == []
    assert locks.faults(read("service.txt") + planted + "\n") != []


@pytest.mark.parametrize("planted", ["torch==2.13.0+cpu", "torch>=2.13", "torch", "-f wheels", "torch @ file:///x.whl"])
def test_planted_fault_is_found_in_a_lock_without_hashes(planted):
    assert locks.faults("torch==2.13.0\n", hashed=False) == []
    assert locks.faults(planted + "\n", hashed=False) != []


def test_an_exact_line_with_marker_and_hashes_over_several_lines_is_fine():
    text = f"tomli==2.5.0 ; python_full_version < '3.11' \\\n    {HASH} \\\n    {HASH}\n    # via pytest\n"
    assert locks.faults(text) == []
    assert locks.pins(text) == [("tomli", "2.5.0")]


def test_every_pin_of_a_lock_is_seen():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert len(locks.pins(text)) == len(re.findall(r"^[a-z0-9][^#\n]*==", text, re.MULTILINE)) > 0


def test_locks_of_python_311_agree_with_each_other():
    everything = dict(locks.pins(read("dev.txt")))
    for name in ("service.txt", "supervisor-cpu.txt"):
        assert dict(locks.pins(read(name))).items() <= everything.items()


def test_no_lock_but_torchs_own_holds_torch():
    assert [path.name for path in FILES if any(pin.name == "torch" for pin in locks.pins(path.read_text()))] == [
        "torch.txt"
    ]


def test_python_38_lock_holds_the_versions_that_run_there():
    wanted = {("msgspec", "0.18.6"), ("pyzmq", "27.1.0"), ("marshmallow", "3.22.0"), ("python-dotenv", "1.0.1")}
    assert wanted | {("pytest", "8.3.5"), ("hypothesis", "6.113.0")} <= set(locks.pins(read("supervisor-py38.txt")))


#: What of the IPU environments is the supervisor's, or the suites', and so must be what the other locks hold.
OURS = {"marshmallow", "msgspec", "python-dotenv", "pyzmq"}
SUITES = {"hypothesis", "pytest", "pytest-randomly", "pytest-timeout"}


def test_ipu_locks_hold_optimum_graphcore_and_what_it_is_known_to_work_with():
    wanted = {
        ("optimum-graphcore", "0.7.1"),
        ("optimum", "1.6.1"),
        ("transformers", "4.29.2"),
        ("tokenizers", "0.13.3"),
        ("numpy", "1.23.5"),
        ("datasets", "3.1.0"),
        ("pyarrow", "17.0.0"),
    }
    for name in ("supervisor-ipu.txt", "ipu-standin.txt"):
        assert wanted <= set(locks.pins(read(name)))


def test_supervisor_is_the_same_with_and_without_optimum_graphcore():
    for with_it, without, names in (
        ("ipu-standin.txt", "dev.txt", OURS | SUITES),
        ("supervisor-ipu.txt", "supervisor-py38.txt", OURS),
    ):
        ours = {pin for pin in locks.pins(read(without)) if pin.name in names}
        assert len(ours) == len(names)
        assert ours <= set(locks.pins(read(with_it)))


def test_ipu_locks_of_python_38_agree_so_that_they_can_be_installed_together():
    together = [dict(locks.pins(read(f"{name}.txt"))) for name in ("supervisor-py38", "ipu-build", "supervisor-ipu")]
    for name in set().union(*together):
        assert len({pins[name] for pins in together if name in pins}) == 1, name


def test_ipu_image_gets_no_tests_and_no_web_half():
    names = {pin.name for pin in locks.pins(read("supervisor-ipu.txt"))}
    assert names & (SUITES | {"flask", "flask-smorest", "gunicorn", "setuptools", "cmake", "lit"}) == set()
