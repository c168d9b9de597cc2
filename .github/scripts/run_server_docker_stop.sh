#!/usr/bin/env bash
# Stops what run_server_docker_start.sh started: the earlier name of deploy/scripts/stop.sh.
exec "$(dirname "${BASH_SOURCE[0]}")/../../deploy/scripts/stop.sh" "$@"
