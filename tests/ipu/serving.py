"""Both halves on a pretended IPU machine: the supervisor in this environment, the web half in its own (`.venv`)."""

import os
import pathlib
from typing import Any, Callable, Dict, List

from tests.conftest import wait_until
from tests.integration.harness import ROOT
from tests.integration.stack import Answer, Stack
from tests.ipu.conftest import STANDIN, Machine

#: The web half's Python: it needs 3.11, whatever the supervisor runs on.
WEB_PYTHON = ROOT / ".venv" / "bin" / "python"
TOWER = "The tower is 324 metres tall. It was finished in 1889 in Paris. Rob lives in Bristol. "


class IpuStack(Stack):
    """A service whose models compute on a machine of their own."""

    def __init__(
        self, spawn: Callable[..., Any], folder: pathlib.Path, models: List[Dict[str, Any]], **env: str
    ) -> None:
        """Make the machine; `env` may hold STANDIN_* settings."""
        machine = folder / "machine"
        machine.mkdir(exist_ok=True)
        settings = {
            "STANDIN_FOLDER": str(machine),
            "POPTORCH_CACHE_DIR": str(folder / "executables"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(STANDIN),
            "PATH": "{}{}{}".format(STANDIN / "bin", os.pathsep, os.environ["PATH"]),
            "POPTORCH_WAIT_FOR_IPU": "1",
            **env,
        }
        super().__init__(spawn, folder, models, **settings)
        assert WEB_PYTHON.exists(), "the web half's environment is not there: run `make test-ipu`"
        self.web_python = str(WEB_PYTHON)
        self.machine = Machine(machine)

    def qa(self, context: str = TOWER, question: str = "Who lives in Bristol?", limit_s: float = 60) -> Answer:
        """Ask a question."""
        return self.request("POST", "/qa", {"context": context, "question": question}, limit_s)

    def model(self, name: str = "question_answering") -> Dict[str, Any]:
        """Return what `/models` says of a model, within the second that the web half keeps it.

        It is asked again while it is no 200: a supervisor that was silent for half a second, as in a pause of the
        machine, is a 503.
        """
        answers: List[Answer] = []

        def told() -> bool:
            answers.append(self.request("GET", "/models/" + name))
            return answers[-1].status == 200

        wait_until(told, what="/models answers")
        body: Dict[str, Any] = answers[-1].body
        return body

    def states(self, name: str = "question_answering") -> List[str]:
        """Return the states of a model's replicas, as `/models` has them."""
        return [replica["state"] for replica in self.model(name)["replicas"]]
