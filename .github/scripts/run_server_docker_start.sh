#!/usr/bin/env bash
# Builds and starts both halves with docker compose, and waits until every model is ready: the earlier name of deploy/scripts/start.sh.
exec "$(dirname "${BASH_SOURCE[0]}")/../../deploy/scripts/start.sh" "$@"
