#!/usr/bin/env bash
# Builds the web half and puts the new one in the place of the old without losing a request; the models notice nothing.
# Only behind nginx (deploy/compose.tls.yaml): for a moment there are two, and a published port could not be both's.
#
#     COMPOSE_FILE=compose.yaml:deploy/compose.tls.yaml deploy/docker/roll.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

old=$(docker compose ps --all --quiet service)
count=$(wc -w <<<"$old")

# A new one that does not get ready must not stay where nginx finds it; its last words must.
drop_new() {
    for container in $(docker compose ps --all --quiet service | grep -vxF "$old"); do
        docker logs --tail 100 "$container" >&2 || true
        docker rm --force "$container" >/dev/null
    done
    echo "roll.sh: FAILED; what served before still does" >&2
}

docker compose build service
trap drop_new EXIT
trap 'exit 130' INT TERM HUP
docker compose up --detach --no-deps --no-recreate --wait --scale "service=$((count + 1))" service
trap - EXIT
# They answer what they have taken, then end; nginx gives what they no longer take to the new one.
xargs --no-run-if-empty docker stop <<<"$old" >/dev/null
xargs --no-run-if-empty docker rm <<<"$old" >/dev/null
