"""What the workflows of GitHub promise, read from their files: who may start what, with which secrets, for how long."""

import pathlib
import subprocess

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ("ci", "deploy", "stop")
ON_A_HOST = ("deploy", "stop")
CHECK = ".github/scripts/check_environment.sh"
#: What remote.sh reads, and the secret of the environment that each comes from.
SECRETS = {"SSH_KEY": "SSH_KEY", "SSH_KNOWN_HOSTS": "SSH_KNOWN_HOSTS", "HOST_IP": "HOST_IP", "DEPLOY_USER": "USER"}


def workflow(name):
    return yaml.safe_load((ROOT / ".github/workflows" / (name + ".yml")).read_text(encoding="utf-8"))


def job(name):
    (only,) = workflow(name)["jobs"].values()
    return only


def commands(name):
    return [step["run"] for step in job(name)["steps"] if "run" in step]


def test_these_are_all_workflows():
    """One that is not named here would be held by none of these tests."""
    assert sorted(path.stem for path in (ROOT / ".github/workflows").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ci", [".ci/run"]),
        ("deploy", [CHECK, "deploy/remote.sh deploy", "deploy/remote.sh logs"]),
        ("stop", [CHECK, "deploy/remote.sh stop"]),
    ],
)
def test_a_workflow_does_what_can_be_done_by_hand_and_nothing_else(name, expected):
    """The input is checked first: nothing with a secret runs for a name that no environment of ours has."""
    assert commands(name) == expected


def test_no_step_is_left_out_but_what_is_for_failures():
    conditions = {(name, step.get("run")): step["if"] for name in NAMES for step in job(name)["steps"] if "if" in step}
    assert conditions == {("deploy", "deploy/remote.sh logs"): "failure()"}


def test_continuous_integration_runs_both_suites_for_every_change():
    """YAML reads the key `on` as true."""
    assert workflow("ci")[True] == {"push": {"branches": ["main"]}, "pull_request": None}
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-2:] == ["make test", "make test-deploy"]


@pytest.mark.parametrize("name", ON_A_HOST)
def test_the_name_that_is_checked_is_the_one_that_is_used(name):
    """A fixed environment would give one host's secrets to a run that names another."""
    chosen = "${{ inputs.environment }}"
    (checked,) = (step["env"] for step in job(name)["steps"] if step.get("run") == CHECK)
    assert (job(name)["environment"], checked) == (chosen, {"ENVIRONMENT": chosen})
    assert workflow(name)[True]["workflow_dispatch"]["inputs"]["environment"]["required"] is True


@pytest.mark.parametrize("name", ON_A_HOST)
def test_one_at_a_time_for_each_host_and_what_has_begun_goes_to_its_end(name):
    """With another group a stop would meet a deployment half way; cancelled, one would leave a host half way."""
    assert workflow(name)["concurrency"] == {
        "group": "host-${{ inputs.environment }}",
        "cancel-in-progress": False,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_may_read_the_commit_and_keeps_no_token(name):
    """A token that stays in the clone could be read by whatever the commit runs."""
    assert (workflow(name)["permissions"], job(name)["permissions"]) == ({}, {"contents": "read"})
    (checkout,) = (step for step in job(name)["steps"] if step.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"] == {"persist-credentials": False}


def test_every_job_has_a_limit_and_a_stop_has_a_short_one():
    """GitHub's own limit is six hours. A stop gives up by itself after two minutes, so it is soon known to hang."""
    limits = {name: job(name)["timeout-minutes"] for name in NAMES}
    assert (limits["ci"] <= 60, limits["deploy"] <= 90, 3 < limits["stop"] <= 10) == (True, True, True)


@pytest.mark.parametrize("name", ON_A_HOST)
def test_every_step_that_reaches_the_host_knows_its_key_and_no_other_step_has_a_secret(name):
    """Without SSH_KNOWN_HOSTS it would reach nothing; it does not believe a host that nobody has compared."""
    expected = {variable: "${{ secrets." + secret + " }}" for variable, secret in SECRETS.items()}
    for step in job(name)["steps"]:
        if "remote.sh" in step.get("run", ""):
            assert step["env"] == expected
        else:
            assert "secrets" not in str(step)


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        *[(good, 0) for good in ("staging", "a", "Prod-2_eu.west", "x" * 64)],
        *[(bad, 1) for bad in ("", ".hidden", "-o", "a b", "a\nb", "a/b", "a;b", "$(id)", "ä", "x" * 65)],
    ],
)
def test_an_environment_has_a_plain_name(environment, code):
    """It becomes part of names and of what is shown; what a shell or a path could read into it is refused."""
    script = str(ROOT / CHECK)
    values = {"PATH": "/usr/bin:/bin", "ENVIRONMENT": environment, "LC_ALL": "C.UTF-8"}
    done = subprocess.run([script], env=values, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, b"the environment's name must be" in done.stderr) == (code, bool(code))
