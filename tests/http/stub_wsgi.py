"""The web side with a stub behind it: `gunicorn -c service/gunicorn_conf.py tests.http.stub_wsgi:app`.

`STUB_PLANT` plants one violation, so that a test can show that the harness finds it. `STUB_DEMO` makes the models
demo models.
"""

import os
import time

from flask import Response, request

from service.app import create_app
from service.settings import Settings
from tests.http.stub import StubClient


def _slow(inputs):
    """Answer `echo` after `delay_ms`, as the real one does where faults are on."""
    time.sleep(min(60_000, inputs.get("delay_ms", 0) if SLOW else 0) / 1000)
    return {"results": inputs["text"], "pid": os.getpid()}


def _plant_wrong_type(response: Response) -> Response:
    """Answer `echo` with a number where the document promises text."""
    if request.path == "/echo" and response.status_code == 200:
        response.data = b'{"results": 1, "pid": 1}'
    return response


def _plant_undocumented_code(response: Response) -> Response:
    """Answer a code that the document does not know."""
    if request.path == "/echo" and response.status_code == 422:
        response.status_code = 418
    return response


PLANTS = {"wrong_type": _plant_wrong_type, "undocumented_code": _plant_undocumented_code}
SLOW = bool(os.environ.get("STUB_SLOW"))

settings = Settings.from_env()
stub = StubClient(settings.config, demo=bool(os.environ.get("STUB_DEMO")))
if SLOW:
    stub.answer = _slow
app = create_app(settings, stub)
if os.environ.get("STUB_PLANT"):
    app.after_request(PLANTS[os.environ["STUB_PLANT"]])
