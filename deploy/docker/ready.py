"""The service image's health check: ready or not, and why not.

Docker runs it in the container; what it prints is in `docker inspect`. It restarts nothing: a container is
unhealthy for as long as some model cannot be asked, and a web half whose models still load is not broken.
"""

import json
import os
import sys
import urllib.error
import urllib.request

#: Longest wait for the answer, seconds; Docker's own limit is longer.
ANSWER_LIMIT_S = 4


def main() -> int:
    """Ask the web half whether every model can be asked."""
    url = f"http://127.0.0.1:{os.environ.get('SERVER_PORT') or 8100}/health/readiness"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_LIMIT_S) as answer:
            print(json.load(answer)["status"])
    except urllib.error.HTTPError as refusal:
        print(refusal.read(2000).decode("utf-8", "replace"))
        return 1
    except OSError as error:
        print(f"no answer from {url}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
