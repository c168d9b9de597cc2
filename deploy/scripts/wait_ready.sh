#!/usr/bin/env bash
# Waits until every model is ready, and shows what each does meanwhile; fails at once, with the reason, when one failed.
# Asks the containers of docker compose, from inside; or, where an address is given, whatever answers there (python3).
# usage: wait_ready.sh [http://HOST:PORT | unix:/PATH] [--limit SECONDS]
# The limit is SERVER_WAIT_TIMEOUT (real seconds), from the environment, else from .env, else 1800.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ ${1:-} == *:/* ]]; then
    exec python3 deploy/scripts/wait_ready.py "$@"
fi
# One plain number, the last one, as wait_ready.py reads it: nothing else of .env is for a shell to read.
limit=${SERVER_WAIT_TIMEOUT:-$(sed -nE "s/^SERVER_WAIT_TIMEOUT=[\"']?([0-9]+(\.[0-9]+)?)[\"']?\s*$/\1/p" .env | tail -n 1)}
exec docker compose exec --no-TTY service python3 - --limit "${limit:-1800}" "$@" <deploy/scripts/wait_ready.py
