"""Release folders on a host: what is unpacked, what is refused, what is switched, what is removed."""

import errno
import hashlib
import io
import os
import pathlib
import tarfile
import tempfile

import pytest

from deploy.host import releases
from deploy.host.layout import HostSettings, Layout
from deploy.host.releases import Refused

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "root")
    for folder in (layout.root, layout.releases, layout.venvs):
        folder.mkdir()
    return layout


def archive(compression=9, **files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=compression) as tar:
        for name, text in files.items():
            about = tarfile.TarInfo("service/" + name)
            about.size = len(text)
            if text.startswith("->"):
                about.type, about.linkname, about.size = tarfile.SYMTYPE, text[2:], 0
            tar.addfile(about, io.BytesIO(text.encode()))
    return stream.getvalue()


def receive(layout, name, data, checksum=None, unpack=None):
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        with releases.received(layout, name, checksum or hashlib.sha256(data).hexdigest(), stream) as sent:
            return releases.place(layout, name, sent, unpack or unpacked)


def unpacked(archive, folder):
    folder.mkdir()
    with tarfile.open(str(archive)) as tar:
        for member in tar:
            place = folder / member.name
            place.parent.mkdir(exist_ok=True)
            if member.issym():
                place.symlink_to(member.linkname)
            else:
                place.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]


def test_a_release_is_unpacked_beside_what_is_noted_of_it(layout):
    release = receive(layout, COMMIT, archive(app="1"))
    assert release == layout.releases / COMMIT
    assert (release / "app/service/app").read_text(encoding="utf-8") == "1"
    assert sorted(path.name for path in release.iterdir()) == ["app", "content", "unproven"]


def test_another_checksum_than_the_announced_one_unpacks_nothing(layout):
    seen: list = []
    with pytest.raises(Refused, match="nothing was unpacked"):
        receive(layout, COMMIT, archive(app="1"), "0" * 64, lambda *where: seen.append(where))
    assert (seen, list(layout.releases.iterdir())) == ([], [])


@pytest.mark.parametrize(
    ("name", "checksum"), [("../" + "a" * 37, "0" * 64), (COMMIT + "\n", "0" * 64), (COMMIT, "0" * 63 + "G")]
)
def test_a_name_or_checksum_of_another_form_is_refused(layout, name, checksum):
    with pytest.raises(Refused, match="40 hexadecimal digits"):
        receive(layout, name, archive(app="1"), checksum)


def test_an_archive_without_end_is_refused(layout, monkeypatch):
    monkeypatch.setattr(releases, "MAX_ARCHIVE_BYTES", 10)
    with pytest.raises(Refused, match="more than 10 bytes"):
        receive(layout, COMMIT, archive(app="1"))


@pytest.mark.timeout(10)
def test_an_archive_of_which_nothing_comes_for_too_long_is_refused(layout, monkeypatch):
    monkeypatch.setattr(releases, "SILENCE_LIMIT_S", 0.01)
    reading, writing = os.pipe()
    os.write(writing, archive(app="1")[:20])
    with open(reading, "rb") as stream, pytest.raises(Refused, match=r"nothing of the archive came for 0\.01 s"):
        releases.received(layout, COMMIT, "0" * 64, stream).__enter__()
    os.close(writing)


def test_an_archive_on_its_way_has_no_name_that_an_upload_which_was_killed_could_leave(layout):
    before = sorted(layout.root.iterdir())
    nothing = hashlib.sha256(b"").hexdigest()
    with open("/dev/null", "rb") as stream, releases.received(layout, COMMIT, nothing, stream):
        assert sorted(layout.root.iterdir()) == before


def test_the_same_content_packed_otherwise_is_the_same_release(layout):
    first = receive(layout, COMMIT, archive(app="1"))
    marker = first / "installed"
    marker.touch()
    assert receive(layout, COMMIT, archive(compression=1, app="1")) == first
    assert marker.exists()


def test_another_content_under_the_same_name_is_refused(layout):
    release = receive(layout, COMMIT, archive(app="1"))
    with pytest.raises(Refused, match="another content"):
        receive(layout, COMMIT, archive(app="2"))
    assert (release / "app/service/app").read_text(encoding="utf-8") == "1"


def test_a_link_is_content_by_where_it_points_not_by_what_is_there(layout, tmp_path):
    (tmp_path / "secret").write_text("1", encoding="utf-8")
    release = receive(layout, COMMIT, archive(app="->" + str(tmp_path / "secret")))
    (tmp_path / "secret").write_text("2", encoding="utf-8")
    assert receive(layout, COMMIT, archive(app="->" + str(tmp_path / "secret"))) == release
    with pytest.raises(Refused, match="another content"):
        receive(layout, COMMIT, archive(app="1"))


def test_what_an_interrupted_deployment_left_is_replaced(layout):
    (layout.releases / COMMIT / "half").mkdir(parents=True)
    (layout.root / "incoming-old").mkdir()
    release = receive(layout, COMMIT, archive(app="1"))
    assert not (release / "half").exists()
    assert not (layout.root / "incoming-old").exists()


def test_a_disk_that_becomes_full_leaves_nothing_that_stops_the_next_deployment(layout, monkeypatch):
    def full(path, text, encoding):
        path.touch()
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "write_text", full)
        with pytest.raises(OSError, match="no space left"):
            receive(layout, COMMIT, archive(app="1"))
    assert receive(layout, COMMIT, archive(app="1")) == layout.releases / COMMIT


@pytest.mark.timeout(10)
def test_a_pipe_in_an_archive_is_refused(layout):
    def unpack_pipe(archive, folder):
        unpacked(archive, folder)
        os.mkfifo(str(folder / "service/pipe"))

    with pytest.raises(Refused, match="service/pipe is no file, folder or link"):
        receive(layout, COMMIT, archive(app="1"), unpack=unpack_pipe)
    assert list(layout.releases.iterdir()) == []


def test_a_link_points_to_a_release_or_to_none(layout):
    assert releases.pointed(layout.current) is None
    for name in (COMMIT, OTHER):
        releases.point(layout.current, receive(layout, name, archive(app=name)))
        assert releases.pointed(layout.current) == (layout.releases / name).resolve()
    assert os.readlink(str(layout.current)) == "releases/" + OTHER


def test_what_was_cut_off_while_it_pointed_a_link_is_in_nobodys_way(layout):
    layout.current.with_name("current.new").symlink_to("releases/gone")
    releases.point(layout.current, receive(layout, COMMIT, archive(app="1")))
    assert releases.pointed(layout.current) == (layout.releases / COMMIT).resolve()


def test_content_is_names_and_bytes_without_compiled_files(layout):
    release = receive(layout, COMMIT, archive(app="1"))
    app = release / "app"
    before = releases.content(app)
    (app / "service/__pycache__").mkdir()
    (app / "service/__pycache__/app.pyc").touch()
    assert releases.content(app) == before
    (app / "service/app").rename(app / "service/other")
    assert releases.content(app) != before


def stamped(layout, names):
    made = [receive(layout, name * 40, archive(app=name)) for name in names]
    for age, release in enumerate(made):
        os.utime(str(release / releases.STAMP), (1000 + age, 1000 + age))
    return made


def test_the_newest_three_releases_stay(layout):
    stamped(layout, "12345")
    assert releases.prune(layout, [None]) == ["1" * 40, "2" * 40]
    assert sorted(path.name[0] for path in layout.releases.iterdir()) == ["3", "4", "5"]


def test_an_old_release_stays_while_it_is_used(layout):
    made = stamped(layout, "12345")
    releases.prune(layout, [made[0], made[4], None])
    assert sorted(path.name[0] for path in layout.releases.iterdir()) == ["1", "4", "5"]


def test_an_environment_goes_with_its_last_release(layout):
    made = stamped(layout, "1234")
    for release, venv in zip(made, ("web-old", "web-new", "web-new", "web-new")):
        (layout.venvs / venv / "env").mkdir(parents=True, exist_ok=True)
        releases.point(release / "venv-web", layout.venvs / venv / "env")
    releases.prune(layout, [])
    assert [path.name for path in layout.venvs.iterdir()] == ["web-new"]


def test_host_settings_are_lines_and_absent_ones_have_defaults(tmp_path):
    path = tmp_path / "host.conf"
    assert HostSettings.read(path) == HostSettings("python3.11", "")
    path.write_bytes(b"# caf\xe9\n# PYTHON=python2\nPYTHON = /opt/python/bin/python3.11\n\nSUPERVISOR_VENV=/opt/sdk\n")
    assert HostSettings.read(path) == HostSettings("/opt/python/bin/python3.11", "/opt/sdk")
    assert HostSettings.read(pathlib.Path("/nonexistent")) == HostSettings()
