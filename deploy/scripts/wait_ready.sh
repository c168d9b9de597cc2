#!/usr/bin/env bash
# Waits until every model is ready, and shows what each does meanwhile; fails within seconds, with the reason, when one
# failed. Asks the containers of docker compose, from inside; or, where an address is given, whatever answers there
# (python3).
# usage: wait_ready.sh [http://HOST:PORT | unix:/PATH] [--limit SECONDS]
# The limit is SERVER_WAIT_TIMEOUT (real seconds), from the environment, else from .env, else 1800.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# What wait_ready.py ends with when the models are not ready.
NOT_READY=3

fail() {
    echo "NOT READY: $*" >&2
    exit 1
}

if [[ ${1:-} == *:/* ]]; then
    code=0
    python3 deploy/scripts/wait_ready.py "$@" || code=$?
    exit $((code == NOT_READY ? 1 : code))
fi

[[ ${1:-} != --limit ]] || export SERVER_WAIT_TIMEOUT=${2:-}
limit=$(deploy/scripts/setting.sh SERVER_WAIT_TIMEOUT seconds 1800)
trap 'kill "${!:-}" 2>/dev/null; exit 130' INT TERM HUP

# Ends this script unless what asks was cut off: it runs in the container of the web half, and ends with it.
ask() {
    local code=0
    docker compose exec --no-TTY service python3 - --limit "$limit" --waited "$SECONDS" "$@" \
        <deploy/scripts/wait_ready.py &
    wait "$!" || code=$?
    case $code in
        0 | 2) exit "$code" ;;
        "$NOT_READY") exit 1 ;;
    esac
    echo "the web half could not be asked to the end (exit code $code); trying again" >&2
}

while ((SECONDS <= 10#${limit%.*})); do
    state=$(docker compose ps --all --format '{{.State}}' service | xargs)
    [[ -n $state ]] || fail "there is no container of the web half; start.sh makes one"
    [[ $state != *running* ]] || ask "$@"
    sleep 1
done
fail "not ready within $limit s: the container of the web half, which is asked, is ${state:-unknown}"
