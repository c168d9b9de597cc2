#!/usr/bin/env bash
# Stops both halves that docker compose started, and removes their containers and networks. What was accepted is
# answered first. Volumes stay: downloaded checkpoints, and executables that were compiled. The rest of the project goes
# too, such as nginx, also from a shell whose COMPOSE_FILE does not name it.
# usage: stop.sh [OPTION OF docker compose down...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

exec docker compose down --remove-orphans "$@"
