#!/usr/bin/env bash
# Builds and starts both halves with docker compose, then waits until every model is ready (see wait_ready.sh).
# Wrong settings are named before anything is started. When a model does not get ready the containers stay, so that they
# can be looked at; stop.sh takes them away.
# usage: start.sh [OPTION OF docker compose up...]; COMPOSE_FILE and .env choose what is started
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

docker compose build --quiet
docker compose run --rm --no-deps --no-TTY supervisor python3 -m ipu_supervisor check-config
docker compose run --rm --no-deps --no-TTY service python3 -m gunicorn --check-config -c service/gunicorn_conf.py
docker compose up --detach "$@"

# The second `up` starts nothing: it waits for the health of what stands in front of the models, such as nginx.
if ! deploy/scripts/wait_ready.sh || ! docker compose up --detach --wait "$@"; then
    docker compose logs --no-color --tail 50
    exit 1
fi
