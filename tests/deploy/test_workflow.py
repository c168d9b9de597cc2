"""The runner of workflows refuses what it does not know, so that no step is run otherwise than GitHub would run it."""

import pytest

from tests.deploy.vm import commit, git
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
