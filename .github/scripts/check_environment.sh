#!/usr/bin/env bash
# Refuses a name of an environment that no environment of ours has.
set -euo pipefail
[[ ${ENVIRONMENT:-} =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$ ]] || {
    echo "the environment's name must be 1 to 64 letters, digits, '_', '.' and '-'" >&2
    exit 1
}
