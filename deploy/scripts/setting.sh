#!/usr/bin/env bash
# Prints a setting that the scripts need themselves: from the environment, else from .env, else its default. One that is
# not what it must be is named, with exit code 78. Reads .env as wait_ready.py does: the last line that sets it counts,
# and one whose value has blanks, quotes or a $ in it does not.
# usage: setting.sh NAME seconds|port DEFAULT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

name=$1 kind=$2 value=${!1:-}
if [[ -z $value && -e .env ]]; then
    line="^\s*(export\s+)?$name\s*=\s*([\"']?)([^\"'\$[:space:]]*)\2(\s+#.*|\s*)$"
    value=$(sed -nE "s/$line/\3/p" .env | tail -n 1)
fi
value=${value:-$3}

is_seconds() { [[ $value =~ ^[0-9]+(\.[0-9]+)?$ && $value =~ [1-9] ]]; }
is_port() { [[ $value =~ ^[0-9]{1,5}$ ]] && ((10#$value >= 1 && 10#$value <= 65535)); }

case $kind in
    seconds) expected="seconds, a number above 0" ;;
    port) expected="a port, from 1 to 65535" ;;
esac
if ! "is_$kind"; then
    echo "$name: expected is $expected, not '$value'" >&2
    exit 78
fi
echo "$value"
