"""Throws generated requests, valid and invalid, at a running service, and holds the answers against its document.

`python -m tests.http.schemathesis_run --url http://localhost:8100 [--examples 300] [--only OPERATION …]`; the exit
code is 0 when no check found a violation. Refusals that the document promises (429, 503, 504) are no violations: a
real model may be busy.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

#: What schemathesis is told beside its command line: 503 and 504 are promised answers, not crashes; and a header that
#: the document does not name is no violation, because HTTP wants it ignored.
CONFIG = """
[generation]
allow-extra-parameters = false
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
[checks.negative_data_rejection]
expected-statuses = ["400", "404", "405", "413", "415", "422", "429", "503", "504"]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "413", "429", "503", "504"]
"""


def run(url: str, examples: int, only: list[str], seed: int = 1, workers: int = 2) -> subprocess.CompletedProcess:
    """Return what schemathesis said about the service at `url`."""
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "schemathesis.toml")
        config.write_text(CONFIG, encoding="utf-8")
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", url + "/openapi.json"]
        command += ["--checks", "all", "--mode", "all", "--phases", "examples,coverage,fuzzing"]
        command += ["--max-examples", str(examples), "--seed", str(seed), "--workers", str(workers)]
        command += ["--request-timeout", "60", "--no-color", "--continue-on-failure"]
        command += [argument for operation in only for argument in ("--include-operation-id", operation)]
        environ = {**os.environ, "NO_PROXY": "*", "COLUMNS": "130"}
        return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8100")
    parser.add_argument("--examples", type=int, default=300, help="generated requests per operation and kind")
    parser.add_argument("--only", action="append", default=[], help="an operationId; may be given several times")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    done = run(arguments.url, arguments.examples, arguments.only, arguments.seed)
    print(done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
