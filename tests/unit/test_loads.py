"""The load times that are kept for the next supervisor."""

import logging
import os
import stat

import pytest

from ipu_supervisor.loads import Loads


def test_what_was_measured_is_read_by_the_next_supervisor(tmp_path):
    Loads(tmp_path).keep("echo", 1.5)
    Loads(tmp_path).keep("other", 0.25)
    assert Loads(tmp_path).read() == {"echo": 1.5, "other": 0.25}


@pytest.mark.parametrize("text", ["", "[]", '{"echo": "long"}', '{"echo": null}', "{"])
def test_a_damaged_file_counts_as_none(tmp_path, text):
    (tmp_path / "load_s.json").write_text(text, encoding="utf-8")
    assert Loads(tmp_path).read() == {}


def test_the_file_is_not_open_to_the_group_that_the_web_side_belongs_to(tmp_path):
    umask = os.umask(0o027)
    try:
        Loads(tmp_path).keep("echo", 1.5)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "load_s.json").stat().st_mode) == 0o600


def test_a_full_disk_loses_a_measurement_says_so_and_nothing_else(tmp_path, caplog):
    Loads(tmp_path).keep("echo", 1.5)
    (tmp_path / "load_s.new").symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        Loads(tmp_path).keep("echo", 2.5)
    assert Loads(tmp_path).read() == {"echo": 1.5}
    assert "load_not_kept" in caplog.text
