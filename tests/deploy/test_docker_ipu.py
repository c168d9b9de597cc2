"""The image for IPUs, on a base that stands in for Graphcore's: Debian with Python 3.8, without torch and poptorch.

It shows that the packages install and the supervisor runs as in that image; what needs poptorch is not shown.
"""

import json
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from tests.deploy.base import PREFIX, base_image
from tests.deploy.engine import Engine
from tests.deploy.vm import ROOT
from tools import python38

LOCKS = ("requirements/ipu-build.txt", "requirements/supervisor-ipu.txt", "deploy/docker/pip-py38.txt")
#: Python 3.8 of this machine, put where everyone may read it.
BASE = """\
FROM {base}
COPY . /opt/python3.8
ENV PATH=/opt/python3.8/bin:$PATH LD_LIBRARY_PATH=/opt/python3.8/lib
"""
#: What of it is not needed.
IGNORED = "lib/python3.8/test\n**/__pycache__\n**/*.a\nlib/python3.8/site-packages\n!lib/python3.8/site-packages/pip\n"
ECHO = json.dumps([{"model": "echo"}])


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built without a network."""
    interpreter = python38.find()
    if interpreter is None:
        pytest.skip("no Python 3.8 here to stand in for that of Graphcore's image")
    folder, tag = tmp_path_factory.mktemp("ipu"), f"{PREFIX}supervisor-ipu"
    base, wheels = stand_in(engine, interpreter, folder), download(interpreter, folder / "wheels")
    (folder / "pip.conf").write_text("[global]\nno-index = true\n", encoding="utf-8")
    sources = ("--secret", f"id=pip,src={folder}/pip.conf", "--build-context", f"wheels={wheels}")
    bases = ("--build-arg", f"BASE={base_image(engine)}", "--build-arg", f"IPU_BASE={base}")
    target = ("--network", "none", "--target", "supervisor-ipu", "--tag", tag)
    engine.docker("build", "--quiet", *bases, *sources, *target, str(ROOT))
    yield tag
    engine.docker("image", "rm", tag, base)


def stand_in(engine: Engine, interpreter: str, folder: pathlib.Path) -> str:
    """Return a base image in which `python3` is this machine's Python 3.8."""
    prefix = subprocess.check_output([interpreter, "-c", "import sys; print(sys.base_prefix)"], text=True).strip()
    if not (pathlib.Path(prefix) / "lib/libpython3.8.so.1.0").exists():
        pytest.skip(f"Python 3.8 in {prefix} is not all in one folder")
    file, tag = folder / "Dockerfile", f"{PREFIX}python38"
    file.write_text(BASE.format(base=base_image(engine)), encoding="utf-8")
    file.with_name("Dockerfile.dockerignore").write_text(IGNORED, encoding="utf-8")
    engine.docker("build", "--quiet", "--tag", tag, "--file", str(file), prefix)
    return tag


def download(interpreter: str, folder: pathlib.Path) -> pathlib.Path:
    """Return a folder with everything that the image installs."""
    locks = [part for lock in LOCKS for part in ("--requirement", lock)]
    pip = [interpreter, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(folder)]
    subprocess.run([*pip, *locks], cwd=ROOT, stderr=subprocess.DEVNULL, check=True)
    return folder


@pytest.fixture
def container(engine: Engine, image: str) -> Iterator[str]:
    """The supervisor with the echo model, as confined as compose runs it."""
    confined = ("--init", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")
    places = ("--tmpfs", "/tmp:exec", "--tmpfs", "/run/model-server:uid=10001,gid=10001,mode=0750")
    options = ("--detach", "--pull", "never", "--network", "none", *confined, *places, "--env", f"SERVER_MODELS={ECHO}")
    name = engine.docker("run", *options, image).strip()
    yield name
    engine.docker("rm", "--force", "--volumes", name)


def test_the_supervisor_of_the_ipu_image_runs_on_python_38_without_privileges(engine, container):
    def status():
        return engine.docker("inspect", "--format", "{{.State.Health.Status}}", container).strip()

    wait_until(lambda: status() == "healthy", 60)
    version = engine.docker("exec", container, "python3", "-c", "import sys; print(sys.version_info[:2])")
    assert version.strip() == "(3, 8)"
    wait_until(lambda: "READY" in engine.docker("exec", container, "python3", "-m", "ipu_supervisor", "status"), 60)
    assert engine.docker("exec", container, "id", "-u").strip() == "10001"


def test_the_packages_of_the_ipu_image_are_those_of_its_lock(engine, container):
    code = "import optimum.version, transformers, zmq; print(transformers.__version__, zmq.__version__)"
    assert engine.docker("exec", container, "python3", "-c", code).split() == ["4.29.2", "27.1.0"]
    find = "import importlib.util; print(importlib.util.find_spec('optimum.graphcore').origin)"
    assert engine.docker("exec", container, "python3", "-c", find).startswith("/opt/packages/optimum/graphcore/")
