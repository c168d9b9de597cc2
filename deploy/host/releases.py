"""Release folders: unpacked after their checksum is verified, switched atomically, pruned.

What comes with a release is never trusted: root neither runs it nor writes where it could have put a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import select
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Callable

from deploy.host.layout import Layout

#: Name of a release: a commit.
NAME = re.compile(r"[0-9a-f]{40}\Z")
#: SHA-256 of a release's archive.
CHECKSUM = re.compile(r"[0-9a-f]{64}\Z")
#: Largest archive that is taken, bytes (chosen: a release is a few MB).
MAX_ARCHIVE_BYTES = 256 * 1024 * 1024
#: Longest time in which nothing of an archive comes, seconds (chosen: a whole one takes a few).
SILENCE_LIMIT_S = 60.0
#: Folders of releases that are on their way begin so; one that is there was left by a deployment that was killed.
INCOMING = "incoming-"
#: How many releases stay, the current one included.
KEPT = 3
#: In a release: the commit's files, and the hash of them as they were unpacked, without which a folder is no release.
APP, STAMP = "app", "content"
#: A mark in a release, from its unpacking until a deployment of it has succeeded: nobody goes back to it before.
UNPROVEN = "unproven"
#: Links in a release to its environments begin so.
VENV = "venv-"
#: Unpacks an archive into an empty folder, which belongs to nobody else afterwards.
Unpack = Callable[[pathlib.Path, pathlib.Path], None]


class Refused(RuntimeError):
    """What was sent is not what was announced, or does not exist."""


@contextlib.contextmanager
def received(layout: Layout, name: str, checksum: str, stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Verify the archive in `stream`; yield it, in a file without a name, which goes with this process.

    Touches no release, so nobody needs to be kept waiting for it. Raises `Refused`.
    """
    if not NAME.match(name) or not CHECKSUM.match(checksum):
        raise Refused("a release is named by its commit (40 hexadecimal digits) and has a SHA-256 checksum")
    with tempfile.TemporaryFile(dir=layout.root) as archive:
        found = _store(stream, archive)
        if found != checksum:
            raise Refused("the archive's checksum is {}, not {}; nothing was unpacked".format(found, checksum))
        archive.seek(0)
        yield archive


def place(layout: Layout, name: str, archive: IO[bytes], unpack: Unpack) -> pathlib.Path:
    """Unpack an archive that was verified; return the release's folder. Raises `Refused`."""
    for left in layout.root.glob(INCOMING + "*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=INCOMING, dir=layout.root) as scratch:
        folder = pathlib.Path(scratch)
        folder.chmod(0o755)
        packed, made = folder / "release.tar.gz", folder / name
        with packed.open("wb") as copy:
            shutil.copyfileobj(archive, copy)
        made.mkdir()
        unpack(packed, made / APP)
        _settle(made, layout.releases / name)
    return layout.releases / name


def _settle(made: pathlib.Path, release: pathlib.Path) -> None:
    """Put an unpacked release in its place; one that is there already stays. Raises `Refused` when it is another."""
    found, stamp = content(made / APP), release / STAMP
    if not stamp.exists():
        # First the stamp and the mark: a release in its place is whole, even when the disk becomes full here.
        (made / UNPROVEN).touch()
        (made / STAMP).write_text(found, encoding="ascii")
        shutil.rmtree(release, ignore_errors=True)
        made.rename(release)
    elif stamp.read_text(encoding="ascii") != found:
        raise Refused("the release {} is here already, with another content".format(release.name))


def _store(stream: IO[bytes], archive: IO[bytes]) -> str:
    """Write a stream to a file and return its SHA-256. Raises `Refused` when it is too long, or stands still."""
    digest, total = hashlib.sha256(), 0
    for chunk in _chunks(stream):
        total += len(chunk)
        if total > MAX_ARCHIVE_BYTES:
            raise Refused("the archive has more than {} bytes".format(MAX_ARCHIVE_BYTES))
        digest.update(chunk)
        archive.write(chunk)
    return digest.hexdigest()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what comes in a stream, to its end. Raises `Refused` when nothing comes for too long."""
    while select.select([stream], [], [], SILENCE_LIMIT_S)[0]:
        chunk = os.read(stream.fileno(), 1 << 20)
        if not chunk:
            return
        yield chunk
    raise Refused("nothing of the archive came for {:g} s; nothing was unpacked".format(SILENCE_LIMIT_S))


def pointed(link: pathlib.Path) -> pathlib.Path | None:
    """Return the release that a link points to, or None."""
    release = pathlib.Path(os.path.realpath(link))
    return release if link.is_symlink() and (release / STAMP).exists() else None


def last_served(layout: Layout) -> pathlib.Path | None:
    """Return the release that served last: not one whose deployment was cut off, nor one that never got ready."""
    release = pointed(layout.pending) or pointed(layout.current)
    return None if release is None or (release / UNPROVEN).exists() else release


def point(link: pathlib.Path, target: pathlib.Path) -> None:
    """Make a link point to something; at every moment it points to one thing or the other."""
    fresh = link.with_name(link.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    fresh.replace(link)


def content(folder: pathlib.Path) -> str:
    """Return a hash of all files and links below a folder, names and content; compiled ones left out.

    Raises `Refused` when something else is there: reading from a pipe would never end.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts or (path.is_dir() and not path.is_symlink()):
            continue
        if not path.is_symlink() and not path.is_file():
            raise Refused("{} is no file, folder or link".format(path.relative_to(folder)))
        data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        digest.update("{}\0{}\0{}\0".format(path.relative_to(folder), path.is_symlink(), len(data)).encode())
        digest.update(data)
    return digest.hexdigest()


def prune(layout: Layout, used: Iterable[pathlib.Path | None]) -> list[str]:
    """Remove old releases and the environments of none; those in `used` stay, and the newest up to `KEPT`."""
    there = [path for path in layout.releases.iterdir() if (path / STAMP).exists()]
    newest = sorted(there, key=lambda path: (path / STAMP).stat().st_mtime, reverse=True)
    kept = {path for path in used if path is not None}
    for path in newest:
        if len(kept) < KEPT:
            kept.add(path)
    gone = [path for path in there if path not in kept]
    for path in gone:
        shutil.rmtree(path)
    linked = {pathlib.Path(os.path.realpath(link)) for path in kept for link in path.glob(VENV + "*")}
    for venv in layout.venvs.iterdir():
        if not any(venv in place.parents for place in linked):
            shutil.rmtree(venv)
    return sorted(path.name for path in gone)
