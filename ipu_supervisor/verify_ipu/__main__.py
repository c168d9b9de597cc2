"""Checks on a machine with IPUs what could not be checked without one, and prints a report to paste.

    python3 -m ipu_supervisor.verify_ipu
    python3 -m ipu_supervisor.verify_ipu question_answering=/models/distilbert summarization
    python3 -m ipu_supervisor.verify_ipu '{"model": "summarization", "ipu": {"batch_size": 2}}'

Runs where the supervisor runs: in the supervisor-ipu image, or where optimum-graphcore and the Poplar SDK are. Works in
a temporary folder (TMPDIR says where) with its own cache of compiled programs, and removes it. The report goes to
stdout, how far it is to stderr. Ends with 0 if nothing was other than documented, 1 if something was, 69 if there is no
IPU, 78 if an entry is wrong.
"""

import argparse
import json
import pathlib
import shutil
import signal
import sys
import tempfile
from typing import Any, Dict, Mapping, Optional, Sequence

from ipu_supervisor import config
from ipu_supervisor.verify_ipu.host import Host
from ipu_supervisor.verify_ipu.models import SHARES
from ipu_supervisor.verify_ipu.plan import verify
from ipu_supervisor.verify_ipu.report import CHECKS, Report
from ipu_supervisor.verify_ipu.run import Run, say
from ipu_supervisor.verify_ipu.serving import Place

#: Exit code when something was not as documented.
EXIT_NOT_SEEN = 1
#: The layout of an entry that sets none: a batch, so that it can be compared with single requests.
LAYOUTS = {"question_answering": {"batch_size": 4}}
#: What is served when nothing is named.
DEFAULT_ENTRY = "question_answering"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the checks and print the report; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        environ = config.environment()
    except config.ConfigError as error:
        return _refused(error)
    host = Host(environ)
    if not host.usable:
        say(
            "There is no IPU here that may be used (gc-info counts {}). Enable the Poplar SDK; see docs/ipu.md.".format(
                "none" if host.counted is None else host.counted
            )
        )
        return config.EXIT_DEVICES
    entries = [_entry(text) for text in given.entries or [DEFAULT_ENTRY]]
    try:
        configs = config.from_env({**environ, "SERVER_MODELS": json.dumps(entries), "MODELS_PATH": ""}).models
    except config.ConfigError as error:
        return _refused(error)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report = Report()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="verify-ipu-"))
    try:
        (folder / "tmp").mkdir()
        wanted = frozenset(given.only.split(",") if given.only else CHECKS)
        run = Run(Place(folder, environ), report, wanted, given.limit_s, given.requests)
        verify(run, host, list(zip(entries, configs)), given.replicas)
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)
        # What was found before a Ctrl-C is worth having, too.
        print(report.markdown(), flush=True)
    return 0 if report.as_documented() else EXIT_NOT_SEEN


def _entry(text: str) -> Dict[str, Any]:
    """Return the entry of SERVER_MODELS that an argument means."""
    if text.startswith("{"):
        given: Mapping[str, Any] = json.loads(text)
    else:
        model, _, checkpoint = text.partition("=")
        given = {"model": model, **({"checkpoint": checkpoint} if checkpoint else {})}
    layout = {"ipu": LAYOUTS[given["model"]]} if given.get("model") in LAYOUTS else {}
    return {**layout, **given, "device": "ipu"}


def _argument(text: str) -> str:
    """Refuse an entry that is no entry, or of a model whose inputs are not known here."""
    try:
        model = _entry(text).get("model")
        known = model in SHARES
    except (ValueError, AttributeError, TypeError) as error:
        raise argparse.ArgumentTypeError("{!r} is no entry: {}".format(text, error)) from error
    if not known:
        raise argparse.ArgumentTypeError("{!r}: only these can be verified: {}".format(model, ", ".join(SHARES)))
    return text


def _count(text: str) -> int:
    """Refuse what is no number of things of which there must be one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("{!r}: must be a whole number from 1 on".format(text))
    return int(text)


def _refused(error: config.ConfigError) -> int:
    """Say what is wrong with the settings, and return the exit code."""
    say("\n".join("error: " + fault for fault in error.faults))
    return error.exit_code


def _names(text: str) -> str:
    """Refuse names of checks that there are not."""
    unknown = sorted(set(text.split(",")) - set(CHECKS))
    if unknown:
        raise argparse.ArgumentTypeError("{}: there are: {}".format(", ".join(unknown), ", ".join(CHECKS)))
    return text


def _parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python3 -m ipu_supervisor.verify_ipu", description="Check on IPUs what docs/ipu.md says of them."
    )
    parser.add_argument(
        "entries",
        nargs="*",
        metavar="ENTRY",
        type=_argument,
        help="a model, model=checkpoint, or an entry of SERVER_MODELS; default: {}".format(DEFAULT_ENTRY),
    )
    parser.add_argument("--only", type=_names, help="names of checks, separated by commas; default: all")
    parser.add_argument("--replicas", type=_count, default=8, help="most replicas of the first model; default: 8")
    parser.add_argument("--requests", type=_count, default=200, help="requests of mixed lengths; default: 200")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="longest wait for a replica; default: 3600")
    return parser


if __name__ == "__main__":
    sys.exit(main())
