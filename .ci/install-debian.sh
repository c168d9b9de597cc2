#!/usr/bin/env bash
# Installs with apt what the tests need beyond `make` and Python 3.11: a browser and its driver.
# Never fails: where it cannot install, it says so, and the tests that need the missing part are skipped aloud.
set -euo pipefail

packages=()
command -v make >/dev/null || packages+=(make)
command -v chromedriver >/dev/null || packages+=(chromium chromium-driver)
if ! python3.11 -c 'import ensurepip' 2>/dev/null && ! python3 -c 'import ensurepip' 2>/dev/null; then
    packages+=(python3.11 python3.11-venv)
fi

if [ ${#packages[@]} -eq 0 ]; then
    echo "ci: everything is there"
elif ! command -v apt-get >/dev/null; then
    echo "ci: NOT installed, no apt-get here: ${packages[*]}"
elif [ "$(id -u)" -ne 0 ]; then
    echo "ci: NOT installed, not root: ${packages[*]}"
else
    echo "ci: installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || echo "ci: apt-get update failed; trying with what is known"
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null \
        || echo "ci: NOT installed, apt-get failed: ${packages[*]}"
fi
