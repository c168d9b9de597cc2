#!/usr/bin/env bash
# Stops the model server and takes away what install.sh and deployments made on this host.
# Settings (/etc/model-server), caches (/var/cache/model-server*) and the users stay, unless --purge is given. What was
# there before install.sh stays in any case.
# usage: sudo uninstall.sh [--purge]
set -euo pipefail

library=/usr/local/lib/model-server
manifest=$library/manifest
releases=/opt/model-server
found=/etc/model-server/found-before

[ "$(id -u)" -eq 0 ] || {
    echo "uninstall.sh: needs root" >&2
    exit 1
}
[[ $# -eq 0 || ($# -eq 1 && $1 == --purge) ]] || {
    echo "usage: uninstall.sh [--purge]" >&2
    exit 1
}

# Asks a deployment that waits to end, as `model-server stop` does, and lets no other begin.
hold() {
    local second
    exec 9>"$releases/lock"
    for ((second = 0; second < 120; second++)); do
        ! flock --nonblock 9 || return 0
        [ "$second" -gt 0 ] || echo "a deployment is going on, and is asked to end"
        touch "$releases/stopping"
        sleep 1
    done
    rm -f "$releases/stopping"
    echo "uninstall.sh: a deployment goes on; nothing was removed" >&2
    exit 75
}
[ ! -d "$releases" ] || hold

if systemctl cat model-server.target >/dev/null 2>&1; then
    systemctl disable --quiet model-server.target
    systemctl stop model-server.target model-server-supervisor.service model-server-http.socket 'model-server-web@*'
fi

# Notes what must go before the manifest goes itself; empty folders go, others hold something that is not ours.
if [ -e "$manifest" ]; then
    mapfile -t files <"$manifest"
    rm -f -- "${files[@]}" "$manifest"{,.new}
    find "$library" -name __pycache__ -type d -prune -exec rm -rf {} +
    find "$library" -depth -type d -empty -delete
fi
rm -f /etc/systemd/system/model-server-http.socket.d/listen.conf
for folder in http.socket.d supervisor.service.d; do
    rmdir "/etc/systemd/system/model-server-$folder" 2>/dev/null || true
done
systemctl daemon-reload
systemctl reset-failed 'model-server*' 2>/dev/null || true

rm -rf "$releases/releases" "$releases/venvs" "$releases"/incoming-*
rm -f "$releases"/{current,previous,pending}{,.new} "$releases"/{supervisor.started,stopping,lock}
rmdir "$releases" 2>/dev/null || true

if [ "${1:-}" != --purge ]; then
    echo "removed; /etc/model-server, /var/cache/model-server* and the users are still there (--purge takes them too)"
    exit 0
fi

stay=() gone=()
for name in /var/cache/model-server{,-build} model-server{,-web,-build}; do
    if grep -qsxF "$name" "$found"; then stay+=("$name"); else gone+=("$name"); fi
done
for name in "${gone[@]}"; do
    if [[ $name == /* ]]; then rm -rf "$name"; else userdel "$name" 2>/dev/null || true; fi
done
for name in "${gone[@]}"; do
    # After all users: two of them share a group.
    [[ $name == /* ]] || groupdel "$name" 2>/dev/null || true
done
# By name: certificates may lie there too.
rm -f /etc/model-server/{env,host.conf} "$found"
rmdir /etc/model-server 2>/dev/null || echo "/etc/model-server holds more than settings and stays"
echo "removed, with settings, caches and users: ${gone[*]}"
[ ${#stay[@]} -eq 0 ] || echo "there before the installation, so they stay: ${stay[*]}"
