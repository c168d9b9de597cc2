"""What a deployment refuses: hosts, addresses, archives, company.

Every test begins with the good release serving, whatever the test before it did.
"""

import subprocess

import pytest

from tests.deploy.on_vm.site import DEPLOY, finished


def test_a_host_with_another_key_than_the_pinned_one_is_refused(served):
    other = (served.vm.folder / "key.pub").read_text(encoding="ascii").split()
    outcome = served.run("deploy", SSH_KNOWN_HOSTS=" ".join([served.vm.address, *other[:2]]))
    assert DEPLOY in outcome.failed
    assert "Host key verification failed" in outcome.output
    assert "serving" not in outcome.output


def test_without_a_pinned_key_the_hosts_key_is_shown_and_nothing_is_sent(served):
    outcome = served.run("deploy", SSH_KNOWN_HOSTS="")
    print_of = ["ssh-keygen", "-l", "-f", str(served.vm.folder / "host_key.pub")]
    fingerprint = subprocess.run(print_of, capture_output=True, text=True, check=True).stdout.split()[1]
    assert DEPLOY in outcome.failed
    assert fingerprint in outcome.output
    assert "SSH_KNOWN_HOSTS" in outcome.output
    assert "release " not in outcome.output


@pytest.mark.parametrize(
    ("name", "value"), [("HOST_IP", "-oProxyCommand=id"), ("DEPLOY_USER", "a b"), ("SSH_PORT", "x")]
)
def test_an_address_that_is_none_is_refused(served, name, value):
    code, said = finished(served.by_hand("status", **{name: value}))
    assert code == 1
    assert f"remote.sh: {name} must be" in said


def test_an_archive_that_is_not_the_announced_one_is_not_unpacked(served):
    said = served.vm.root(f"echo other | model-server deploy {'a' * 40} {'b' * 64}", check=False)
    assert "nothing was unpacked" in said
    assert "a" * 40 not in served.vm.root("ls /opt/model-server/releases")


def test_two_deployments_at_once_do_not_mix(served):
    said = served.vm.root("flock /opt/model-server/lock model-server apply", check=False)
    assert "another deployment is going on" in said
