"""Who the client is behind reverse proxies: how far `X-Forwarded-For`, `-Proto` and `-Host` are believed.

A client can send these headers too. So only as many of their last entries count as there are proxies in front, which
`SERVER_PROXIES` says; with none, nothing of them does.
"""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix


def trust(app: Flask, proxies: int) -> None:
    """Have `app` take client, scheme and host from what the outermost of `proxies` wrote."""
    if proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies)  # type: ignore[method-assign]
