"""Runs the `run:` steps of a GitHub workflow on this machine, with the shell, environment and secrets of a runner.

No packaged runner exists, so this one knows only what our workflows use and refuses everything else: an expression, a
condition or a context that it does not know ends the run. Actions (`uses:`) are noted, not run.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

#: How GitHub starts bash for a step.
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
#: Contexts whose values a step may use.
CONTEXTS = ("secrets", "inputs", "github")
#: Shorter lines of a secret are not masked, as on GitHub.
LEAST_MASKED = 4


class NotSupported(ValueError):
    """The workflow uses something that this runner does not know."""


@dataclasses.dataclass
class Run:
    """What happened: the output as GitHub shows it and as it was, and the steps that failed."""

    #: With every secret masked; `raw` still has what a step printed of one.
    output: str = ""
    raw: str = ""
    ran: list[str] = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)
    used: list[str] = dataclasses.field(default_factory=list)


def run(
    file: pathlib.Path, workspace: pathlib.Path, secrets: Mapping[str, str], inputs: Mapping[str, str], path: str = ""
) -> Run:
    """Run every job of a workflow in a checked-out `workspace`."""
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    # YAML reads the key `on` as true.
    declared = (workflow[True].get("workflow_dispatch") or {}).get("inputs") or {}
    missing = [name for name, about in declared.items() if about.get("required") and not inputs.get(name)]
    if missing or set(inputs) - set(declared):
        raise NotSupported(f"inputs: {missing} missing, {sorted(set(inputs) - set(declared))} unknown")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=workspace, capture_output=True, text=True, check=True)
    github = {"sha": head.stdout.strip(), "ref_name": "main", "ref": "refs/heads/main"}
    contexts = {"secrets": secrets, "inputs": inputs, "github": github}
    outcome = Run()
    for job in workflow["jobs"].values():
        for value in (workflow.get("run-name", ""), job["environment"], workflow["concurrency"]["group"]):
            expand(value, contexts)
        for step in job["steps"]:
            _step(step, workspace, contexts, outcome, path)
    outcome.output = masked(outcome.raw, secrets)
    return outcome


def _step(step: Mapping[str, Any], workspace: pathlib.Path, contexts: Any, outcome: Run, path: str) -> None:
    """Run one step if its condition holds."""
    unknown = set(step) - {"name", "if", "uses", "with", "env", "run", "timeout-minutes"}
    if unknown:
        raise NotSupported(f"in a step: {sorted(unknown)}")
    if not holds(step.get("if", "success()"), bool(outcome.failed)):
        return
    if "uses" in step:
        outcome.used.append(step["uses"])
        return
    with tempfile.TemporaryDirectory() as scratch:
        script = pathlib.Path(scratch) / "step.sh"
        script.write_text(expand(step["run"], contexts), encoding="utf-8")
        environ = {
            "PATH": path or os.environ["PATH"],
            "HOME": scratch,
            "USER": "runner",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_SHA": contexts["github"]["sha"],
            "RUNNER_TEMP": scratch,
            # So that a temporary file that a step leaves is found.
            "TMPDIR": scratch,
            **{name: expand(str(value), contexts) for name, value in step.get("env", {}).items()},
        }
        done = subprocess.run(
            [*SHELL, str(script)],
            cwd=workspace,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        left = [name for name in os.listdir(scratch) if name != script.name]
    outcome.ran.append(step["name"])
    outcome.raw += f"== {step['name']}\n{done.stdout.decode('utf-8', 'replace')}"
    if left:
        outcome.raw += f"== left behind: {left}\n"
    if done.returncode:
        outcome.failed.append(step["name"])


def holds(condition: str, failed: bool) -> bool:
    """Say whether a step runs. Raises `NotSupported`."""
    known = {"success()": not failed, "failure()": failed, "always()": True}
    if condition not in known:
        raise NotSupported(f"if: {condition}")
    return known[condition]


def expand(text: str, contexts: Mapping[str, Mapping[str, str]]) -> str:
    """Return a text with its `${{ context.name }}` replaced; an absent secret is empty. Raises `NotSupported`."""

    def value(match: re.Match[str]) -> str:
        context, _, name = match[1].strip().partition(".")
        if context not in CONTEXTS or not re.fullmatch(r"\w+", name):
            raise NotSupported(match[0])
        if context != "secrets" and name not in contexts[context]:
            raise NotSupported(f"{match[0]} has no value here")
        return contexts[context].get(name, "")

    return re.sub(r"\$\{\{(.*?)\}\}", value, text)


def masked(text: str, secrets: Mapping[str, str]) -> str:
    """Return a text with every line of every secret replaced by stars."""
    lines = [line for secret in secrets.values() for line in secret.splitlines() if len(line) >= LEAST_MASKED]
    return re.sub("|".join(map(re.escape, sorted(lines, key=len, reverse=True))), "***", text) if lines else text
