"""The runner of workflows refuses what it does not know, so that no step is run otherwise than GitHub would run it."""

import os

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deploy.vm import ROOT, commit, git
from tests.deploy.workflow import NotSupported, expand, holds, masked, run

CONTEXTS = {"secrets": {"KEY": "s3cret"}, "inputs": {"environment": "staging"}, "github": {"sha": "abc"}}
WORKFLOW = """\
on:
  workflow_dispatch:
    inputs:
      environment: {type: environment, required: true}
concurrency: {group: "host-${{ inputs.environment }}"}
jobs:
  one:
    environment: ${{ inputs.environment }}
    steps:
      - {name: fails, run: "echo $KEY; false; echo unreachable", env: {KEY: "${{ secrets.KEY }}"}}
      - {name: next, run: "echo not run"}
      - {name: shows, if: failure(), run: "echo in ${{ inputs.environment }}"}
"""


@pytest.fixture
def repo(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "workflow.yml").write_text(WORKFLOW, encoding="utf-8")
    commit(tmp_path, "a workflow")
    return tmp_path


def test_a_failed_step_ends_the_job_but_for_what_runs_on_failure(repo):
    outcome = run(repo / "workflow.yml", repo, CONTEXTS["secrets"], CONTEXTS["inputs"])
    assert (outcome.ran, outcome.failed) == (["fails", "shows"], ["fails"])
    assert outcome.output == "== fails\n***\n== shows\nin staging\n"


def test_what_a_step_prints_of_a_secret_and_what_it_leaves_in_a_temporary_folder_is_found(repo):
    text = WORKFLOW.replace("false; echo unreachable", "mktemp -t key.XXXX")
    (repo / "workflow.yml").write_text(text, encoding="utf-8")
    outcome = run(repo / "workflow.yml", repo, CONTEXTS["secrets"], CONTEXTS["inputs"])
    assert ("s3cret" in outcome.raw, "s3cret" in outcome.output) == (True, False)
    assert "== left behind: ['key." in outcome.output


@pytest.mark.parametrize("name", ["deploy", "stop"])
def test_our_workflows_print_no_secret_and_leave_no_key_behind(tmp_path, name):
    """With an ssh that keeps the connection to itself; on_vm/ has a real one."""
    for folder in ("tmp", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin/ssh").write_text('#!/bin/sh\ncat >/dev/null; echo "ssh $*"; echo all\n', encoding="ascii")
    (tmp_path / "bin/ssh").chmod(0o755)
    secrets = {"SSH_KEY": "-----BEGIN\nAAAABBBB\n-----END\n", "USER": "clara", "HOST_IP": "192.0.2.10"}
    secrets["SSH_KNOWN_HOSTS"] = "192.0.2.10 ssh-ed25519 CCCCDDDD"
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    outcome = run(ROOT / f".github/workflows/{name}.yml", ROOT, secrets, {"environment": "staging"}, path)
    assert (outcome.failed, "ssh -F /dev/null" in outcome.raw) == ([], True)
    assert "AAAABBBB" not in outcome.raw
    assert "CCCCDDDD" not in outcome.raw
    assert "left behind" not in outcome.raw


def test_the_host_is_asked_what_it_says_also_when_a_deployment_takes_too_long():
    """A job over its limit is cancelled, and then nothing has failed."""
    job = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text(encoding="utf-8"))["jobs"]["deploy"]
    *_, deploys, shows = job["steps"]
    assert (deploys["run"], shows["if"]) == ("deploy/remote.sh deploy", "failure()")
    assert deploys["timeout-minutes"] < job["timeout-minutes"]


@pytest.mark.parametrize("inputs", [{}, {"environment": ""}, {"environment": "a", "other": "b"}])
def test_inputs_are_those_that_are_declared(repo, inputs):
    with pytest.raises(NotSupported, match="inputs"):
        run(repo / "workflow.yml", repo, {}, inputs)


def test_a_key_that_is_not_known_ends_the_run(repo):
    text = WORKFLOW.replace("{name: next,", "{name: next, continue-on-error: true,")
    (repo / "workflow.yml").write_text(text, encoding="utf-8")
    with pytest.raises(NotSupported, match="continue-on-error"):
        run(repo / "workflow.yml", repo, {}, CONTEXTS["inputs"])


def test_expressions_are_replaced_and_an_absent_secret_is_empty():
    assert expand("${{ inputs.environment }}/${{github.sha}}/${{ secrets.OTHER }}", CONTEXTS) == "staging/abc/"


@pytest.mark.parametrize(
    "expression", ["env.HOME", "inputs.other", "format('{0}', 1)", "github.event.inputs.x", "a || b"]
)
def test_an_expression_that_is_not_known_is_refused(expression):
    with pytest.raises(NotSupported):
        expand(f"${{{{ {expression} }}}}", CONTEXTS)


def test_conditions():
    assert [holds(text, True) for text in ("success()", "failure()", "always()")] == [False, True, True]
    with pytest.raises(NotSupported):
        holds("github.ref == 'main'", False)


def test_every_line_of_a_secret_is_masked():
    assert masked("a line-1 and line-2 b", {"KEY": "line-1\nline-2\n"}) == "a *** and *** b"
    assert masked("nothing", {}) == "nothing"
