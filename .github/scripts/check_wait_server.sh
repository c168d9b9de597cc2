#!/usr/bin/env bash
# Waits until every model is ready, or fails with the reason: the earlier name of deploy/scripts/wait_ready.sh.
exec "$(dirname "${BASH_SOURCE[0]}")/../../deploy/scripts/wait_ready.sh" "$@"
