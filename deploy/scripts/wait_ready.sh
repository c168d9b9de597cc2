#!/usr/bin/env bash
# Waits until every model is ready, and shows what each does meanwhile; fails at once, with the reason, when one failed.
# usage: wait_ready.sh [http://HOST:PORT | unix:/PATH] [--limit SECONDS]
# SERVER_PORT and SERVER_WAIT_TIMEOUT (seconds) come from the environment, else from .env.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python3 deploy/scripts/wait_ready.py "$@"
