"""The generated requests that `tests/integration/test_schemathesis.py` sends do find broken promises."""

import pytest

from tests.http.schemathesis_run import run
from tests.http.server import serving

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("plant", "found"), [("wrong_type", "Response violates schema"), ("undocumented_code", "Undocumented")]
)
def test_a_planted_violation_is_found(plant, found):
    with serving(STUB_PLANT=plant) as server:
        done = run(server.url, 30, ["echo"])
    assert done.returncode == 1, done.stdout[-8000:] + done.stderr[-2000:]
    assert found in done.stdout
