#!/usr/bin/env bash
# Builds and starts both halves with docker compose, then waits until every model is ready (see wait_ready.sh).
# Wrong settings are named before anything is started. When a model does not get ready the containers stay, so that they
# can be looked at; stop.sh takes them away.
# usage: start.sh [OPTION OF docker compose up...]; COMPOSE_FILE and .env choose what is started
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

deploy/scripts/setting.sh SERVER_WAIT_TIMEOUT seconds 1800 >/dev/null
deploy/scripts/setting.sh SERVER_REQUEST_LIMIT_S seconds 30 >/dev/null
deploy/scripts/setting.sh SERVER_PORT port 8100 >/dev/null
docker compose build --quiet
docker compose run --rm --no-deps --no-TTY supervisor python3 -m ipu_supervisor check-config
docker compose run --rm --no-deps --no-TTY service python3 -m gunicorn --check-config -c service/gunicorn_conf.py

# What publishes a port and does not run yet is tried with it: one that another program has is found before a start.
try_port() {
    [[ -z $(docker compose ps --quiet "$1") ]] || return 0
    docker compose run --rm --no-deps --no-TTY --service-ports --entrypoint true "$1" || {
        echo "$1 cannot be started; see above, and SERVER_PUBLISH, SERVER_PORT, TLS_PUBLISH, TLS_PORT" >&2
        exit 1
    }
}

for name in $(docker compose config --services | grep -xE "service|nginx"); do
    try_port "$name"
done
docker compose up --detach "$@"

# compose sees no change in files that are only mounted, so nginx is told to read them again.
renew_nginx() {
    if docker compose ps --services | grep -xF nginx >/dev/null; then
        docker compose exec --no-TTY nginx sh /etc/model-server/start.sh reload
    fi
}

# The second `up` starts nothing: it waits for the health of what stands in front of the models, such as nginx. What
# starts again and again need not be called unhealthy, hence the limit: nginx is well a second after its start, or never.
if ! deploy/scripts/wait_ready.sh || ! docker compose up --detach --wait --wait-timeout 60 "$@" || ! renew_nginx; then
    docker compose logs --no-color --tail 50
    exit 1
fi
