#!/usr/bin/env bash
# Builds the web half and puts the new one in the place of the old without losing a request; the models notice nothing.
# Only behind nginx (deploy/compose.tls.yaml): for a moment there are two, and a published port could not be both's.
#
#     COMPOSE_FILE=compose.yaml:deploy/compose.tls.yaml deploy/docker/roll.sh
set -euo pipefail

mapfile -t old < <(docker compose ps --quiet service)
up=(docker compose up --detach --no-deps --no-recreate --wait)

docker compose build service
"${up[@]}" --scale "service=$((${#old[@]} + 1))" service
# They answer what they have taken, then end; nginx gives what they no longer take to the new one.
if [ ${#old[@]} -gt 0 ]; then
    docker stop "${old[@]}" >/dev/null
    docker rm "${old[@]}" >/dev/null
fi
