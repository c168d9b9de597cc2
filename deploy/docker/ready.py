"""The service image's health check: ready or not, and why not.

Docker runs it in the container; what it prints is in `docker inspect`. It restarts nothing: a container is
unhealthy for as long as some model cannot be asked, and a web half whose models still load is not broken.
"""

import http.client
import json
import os
import sys

#: Longest wait for the answer, seconds; Docker's own limit is longer.
ANSWER_LIMIT_S = 4


def main() -> int:
    """Ask the web half whether every model can be asked."""
    port = int(os.environ.get("SERVER_PORT") or 8100)
    # Straight to it: Docker puts the proxies that it is configured with into the environment; none of them reaches it.
    web_half = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)
    try:
        web_half.request("GET", "/health/readiness")
        answer = web_half.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from port {port}: {error!r}")
        return 1
    if answer.status != http.client.OK:
        print(said[:2000].decode("utf-8", "replace"))
        return 1
    print(json.loads(said)["status"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
