"""One VM for all suites of this folder: a deployment takes half a minute, most of it torch."""

import pytest

from tests.deploy.on_vm.site import SETTINGS, Site
from tests.deploy.vm import Vm, clone, git


@pytest.fixture(scope="session")
def site(engine, tmp_path_factory):
    """A machine on which the first deployment was done; after it, its user may do nothing else with sudo."""
    folder = tmp_path_factory.mktemp("vm")
    (folder / "repo").mkdir()
    site = Site(Vm(engine, folder), clone(folder / "repo"))
    site.good = git(site.repo, "rev-parse", "HEAD").strip()
    try:
        site.vm.boot()
        site.vm.write("/etc/model-server/env", SETTINGS)
        site.first = site.run("deploy")
        site.vm.root("rm /etc/sudoers.d/cloud")
        yield site
    finally:
        print(site.vm.root("journalctl --no-pager -n 300 | grep -v '\"access\"'", check=False))
        site.vm.remove()


@pytest.fixture
def served(site):
    """The good release serves."""
    if site.serving() != site.good or not site.ready():
        again = site.run("deploy")
        assert not again.failed, again.output
    return site
