"""The locks that make a supervisor the only one: nobody else may even open them, for whoever opens one can hold it."""

import stat

import pytest

from ipu_supervisor.config import Config
from ipu_supervisor.sockets import AlreadyRunning, Sockets


@pytest.fixture
def opened(short_dir):
    """Return `opened()`: a supervisor's sockets in a folder that all of them share."""
    made = []

    def open_sockets():
        made.append(Sockets(Config((), endpoint="ipc://{}/s.sock".format(short_dir), run_dir=short_dir)))
        made[-1].open()

    yield open_sockets
    for sockets in made:
        sockets.close()


@pytest.mark.parametrize("left", [False, True])
def test_a_lock_is_open_to_its_own_user_only_also_one_that_an_older_supervisor_has_left(opened, short_dir, left):
    locks = [short_dir / name for name in ("supervisor.lock", "s.sock.lock")]
    for lock in locks if left else ():
        lock.touch(mode=0o644)
    opened()
    assert [stat.S_IMODE(lock.stat().st_mode) for lock in locks] == [0o600, 0o600]
    with pytest.raises(AlreadyRunning):
        opened()
