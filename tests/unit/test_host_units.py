"""What a deployment asks of systemd, with a fake one, and what it hears from its caller."""

import os
import pathlib
import shutil
import socket

import pytest

from deploy.host import units
from tests.unit.host_world import MAIN, CutOff, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
NEW = "0.0.0.0:8101"
#: Stands in for a program of systemd's.
NOTING = """\
#!/bin/sh
echo "${0##*/} $*" >>"${0%/*}/told"
[ "${0##*/}" != journalctl ] || echo "the journal's last words"
exit "${ENDS:-0}"
"""
#: What holds for every command of a release, and what it has beyond that: to install, and as either half.
CLOSED = {"ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "NoNewPrivileges": "yes"}
BUILDING = {
    **dict.fromkeys(("User", "Group", "CacheDirectory"), "model-server-build"),
    **dict.fromkeys(("WorkingDirectory", "ReadWritePaths"), "{0}"),
    "UMask": "0022",
}
RUN_DIR = "SUPERVISOR_RUN_DIR=/run/model-server"
RUNNING = {
    **dict.fromkeys(("User", "Group"), "model-server"),
    "WorkingDirectory": "{0}/app",
    "EnvironmentFile": "-/etc/model-server/env",
    "Environment": " ".join(
        ["SUPERVISOR_ENDPOINT=ipc:///run/model-server/supervisor.sock", RUN_DIR, "PYTHONDONTWRITEBYTECODE=1"]
    ),
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A host on which a serves."""
    world = World(tmp_path / "host", monkeypatch)
    world.deploy("a")
    return world


@pytest.mark.parametrize("address", ["0.0.0.0:8100", "[::]:65535", "[fe80::1]:1", "127.0.0.1:80"])
def test_an_ip_address_and_a_port_are_taken(address):
    units.check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        *("localhost:8100", "0.0.0.0:0", "0.0.0.0:65536", "0.0.0.0", ":8100", "::1:80", "[127.0.0.1]:80", "[[::1]]:80"),
        *("0.0.0.0:1\nExecStartPre=/bin/touch /bad", "0.0.0.0:80\n", "[fe80::1%\n]:80", "0.0.0.0:٨٠"),
    ],
)
def test_what_systemd_could_not_listen_on_or_could_take_for_another_line_is_refused(address):
    with pytest.raises(units.UnitFailed, match="is no address of a port"):
        units.check_address(address)


@pytest.fixture
def holds(monkeypatch):
    """Return `holds(text)`: what systemd says that its own socket listens on; without one it is inactive."""
    said = {"Listen": "", "ActiveState": "inactive"}

    def tell(listens):
        said.update(Listen=f"{listens} (Stream)\n", ActiveState="active\n")

    monkeypatch.setattr(units, "systemctl", lambda verb, name, *_: said[name.partition("=")[2]])
    return tell


@pytest.fixture
def taken():
    """A port on which another program listens, and not only here."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "[::]"])
@pytest.mark.parametrize("ours", ["", "0.0.0.0:8100", "0.0.0.0:{}9"])
def test_a_port_on_which_another_program_listens_is_named(holds, taken, host, ours):
    if ours:
        holds(ours.format(taken))
    with pytest.raises(units.UnitFailed, match=f"{taken} is taken by another program"):
        units.check_free(f"{host}:{taken}")


def test_a_port_that_is_ours_or_nobodys_may_be_moved_to(holds, taken):
    holds(f"0.0.0.0:{taken}")
    units.check_free(f"127.0.0.1:{taken}")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        free = closed.getsockname()[1]
    units.check_free(f"0.0.0.0:{free}")


def test_an_address_that_this_host_does_not_have_yet_is_left_to_systemd(holds):
    units.check_free("192.0.2.1:8100")


def test_an_address_that_stays_closes_nothing(world):
    asked = len(world.asked)
    units.listen("0.0.0.0:8100")
    assert [verb for verb, *_ in world.asked[asked:]] == ["show"]


def test_an_address_that_moves_is_loaded_whatever_cut_off_the_deployment_before(world):
    for step in range(1, 20):
        world.deploy("a")
        world.steps, world.cut_at = 0, step
        try:
            units.listen(NEW)
        except CutOff:
            world.cut_at = None
            units.listen(NEW)
            assert NEW in world.loaded, step
            assert not {MAIN, units.PORT} & set(world.running), step
        else:
            break
    assert step > 6
    world.cut_at = None


@pytest.mark.parametrize(("half", "unset"), [("web", "HF_TOKEN"), ("supervisor", None)])
def test_the_hubs_token_is_the_supervisors_alone(world, half, unset):
    units.run_as(half, world.layout.current, world.layout.venvs, ["-m", "ipu_supervisor", "check-config"])
    assert world.properties.get("UnsetEnvironment") == unset
    name = {"web": "model-server-web@", "supervisor": "model-server-supervisor"}[half]
    unit = (ROOT / f"deploy/systemd/{name}.service").read_text(encoding="utf-8")
    assert ("\nUnsetEnvironment=HF_TOKEN\n" in unit) == (unset is not None)


def test_the_supervisors_own_sockets_are_where_its_commands_look_for_them(world):
    unit = (ROOT / "deploy/systemd/model-server-supervisor.service").read_text(encoding="utf-8")
    assert f"\nEnvironment={RUN_DIR}\n" in unit
    units.run_as("supervisor", world.layout.current, world.layout.venvs, ["-m", "ipu_supervisor", "drain"])
    assert RUN_DIR in world.properties["Environment"].split()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a release, and the files that install.sh has put on the host for it: the last one opens IPUs."""
    release, system, library = tmp_path / "release", tmp_path / "system", tmp_path / "library"
    shutil.copytree(str(ROOT / "deploy"), str(release / "app/deploy"), ignore=shutil.ignore_patterns("__pycache__"))
    deploy, drop_in = release / "app/deploy", system / "supervisor.d/device.conf"
    places = {path: system / path.name for path in (deploy / "systemd").glob("model-server*")}
    for path in (*(deploy / "host").iterdir(), deploy / "scripts/wait_ready.py"):
        places[path] = library / path.relative_to(release / "app")
    places[deploy / "systemd/uninstall.sh"] = library / "uninstall.sh"
    places[deploy / "systemd/command.py"] = tmp_path / "command"
    places[deploy / "systemd/device-ipu.conf"] = drop_in
    for path, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(path), str(place))
    for name, place in {
        "UNITS": system,
        "LIBRARY": library,
        "COMMAND": tmp_path / "command",
        "DEVICE": drop_in,
    }.items():
        monkeypatch.setattr(units, name, place)
    return release, list(places.values())


def test_whatever_of_a_release_an_installation_would_put_here_otherwise_is_named(installed):
    release, places = installed
    assert units.outdated(release) == []
    for place in places:
        text = place.read_bytes()
        place.write_bytes(text + b"# older")
        assert units.outdated(release) == [str(place)]
        place.write_bytes(text)


def test_what_an_installation_would_put_here_is_missed_but_for_the_devices_that_nobody_chose(installed):
    release, places = installed
    for place in places:
        place.unlink()
    assert units.outdated(release) == sorted(map(str, places[:-1]))


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Return `told()`: what systemd's programs were called with. They only note it, and end with ENDS."""
    for name in ("systemctl", "journalctl", "systemd-run"):
        (tmp_path / name).write_text(NOTING, encoding="ascii")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", "{}:{}".format(tmp_path, os.environ["PATH"]))
    return lambda: (tmp_path / "told").read_text(encoding="utf-8").splitlines()


def test_a_unit_is_started_whatever_its_past_and_its_last_words_are_told_when_it_fails(told, monkeypatch):
    units.up("restart", "a.service")
    assert told() == ["systemctl reset-failed a.service", "systemctl restart a.service"]
    monkeypatch.setenv("ENDS", "1")
    with pytest.raises(units.UnitFailed, match="the journal's last words"):
        units.up("restart", "a.service")


WEB = {"User": "model-server-web", "UnsetEnvironment": "HF_TOKEN"}


@pytest.mark.parametrize(
    ("half", "expected"), [("build", BUILDING), ("web", {**RUNNING, **WEB}), ("supervisor", RUNNING)], ids=str
)
def test_a_command_of_a_release_runs_as_its_user_closed_in(told, tmp_path, monkeypatch, half, expected):
    def run():
        if half == "build":
            units.build(tmp_path, ["/bin/python", "-V"])
        else:
            units.run_as(half, tmp_path, pathlib.Path("/"), ["-V"])

    run()
    before, _, command = told()[0].partition(" -- ")
    given = dict(part.split("=", 1) for part in before.split(" --property=")[1:])
    assert given == {name: value.format(tmp_path) for name, value in {**CLOSED, **expected}.items()}
    assert command == "/bin/python -V"
    monkeypatch.setenv("ENDS", "1")
    with pytest.raises(units.UnitFailed, match="ended with 1"):
        run()
