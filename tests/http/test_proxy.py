"""`X-Forwarded-*` headers count as far as SERVER_PROXIES says, and what a client put before them never does."""

import pytest
from flask import request

from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.service

#: What a client makes up, and what a first and a second proxy in front of us then add.
SPOOFED, FIRST, SECOND = "6.6.6.6", "203.0.113.7", "10.0.0.2"


def seen(folder, one_stub, proxies, forwarded_for, forwarded_proto="https", forwarded_host="models.example"):
    """Return client, scheme and host as a view sees them; the connection itself comes from 127.0.0.1."""
    app = create_app(Settings.from_env({"MODELS_PATH": str(folder), "SERVER_PROXIES": str(proxies)}), one_stub)
    app.add_url_rule("/seen", view_func=lambda: [request.remote_addr, request.scheme, request.host])
    headers = {
        "X-Forwarded-For": forwarded_for,
        "X-Forwarded-Proto": forwarded_proto,
        "X-Forwarded-Host": forwarded_host,
    }
    return tuple(app.test_client().get("/seen", headers=headers).json or ())


def test_without_a_proxy_nothing_of_the_headers_is_believed(folder, one_stub):
    assert seen(folder, one_stub, 0, SPOOFED) == ("127.0.0.1", "http", "localhost")


def test_behind_one_proxy_only_its_own_entries_are_believed(folder, one_stub):
    believed = seen(folder, one_stub, 1, f"{SPOOFED}, {FIRST}", "gopher, https", "evil.example, models.example")
    assert believed == (FIRST, "https", "models.example")


def test_behind_two_proxies_the_outer_one_names_the_client(folder, one_stub):
    hosts = "evil.example, a.example, b.internal"
    believed = seen(folder, one_stub, 2, f"{SPOOFED}, {FIRST}, {SECOND}", "gopher, https, http", hosts)
    assert believed == (FIRST, "https", "a.example")


def test_fewer_entries_than_proxies_are_not_believed(folder, one_stub):
    assert seen(folder, one_stub, 2, SPOOFED) == ("127.0.0.1", "http", "localhost")


def test_the_log_names_the_client_that_is_believed(folder, one_stub, caplog):
    caplog.set_level("INFO", "service.access")
    seen(folder, one_stub, 1, f"{SPOOFED}, {FIRST}")
    assert caplog.records[-1].fields["client"] == FIRST
