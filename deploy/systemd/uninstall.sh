#!/usr/bin/env bash
# Stops the model server and takes away what install.sh and deployments made on this host.
# Settings (/etc/model-server), caches (/var/cache/model-server*) and the users stay, unless --purge is given.
# usage: sudo uninstall.sh [--purge]
set -euo pipefail

library=/usr/local/lib/model-server
manifest=$library/manifest
releases=/opt/model-server

[ "$(id -u)" -eq 0 ] || {
    echo "uninstall.sh: needs root" >&2
    exit 1
}
[[ $# -eq 0 || ($# -eq 1 && $1 == --purge) ]] || {
    echo "usage: uninstall.sh [--purge]" >&2
    exit 1
}

if systemctl cat model-server.target >/dev/null 2>&1; then
    systemctl disable --quiet model-server.target
    systemctl stop model-server.target model-server-supervisor.service model-server-http.socket 'model-server-web@*'
fi

# Notes what must go before the manifest goes itself; empty folders go, others hold something that is not ours.
if [ -e "$manifest" ]; then
    mapfile -t files <"$manifest"
    rm -f -- "${files[@]}" "$manifest"
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

if [ "${1:-}" = --purge ]; then
    # By name: certificates may lie there too.
    rm -f /etc/model-server/{env,host.conf}
    rmdir /etc/model-server 2>/dev/null || echo "/etc/model-server holds more than settings and stays"
    rm -rf /var/cache/model-server /var/cache/model-server-build
    for user in model-server model-server-web model-server-build; do
        userdel "$user" 2>/dev/null || true
    done
    for group in model-server model-server-build; do
        groupdel "$group" 2>/dev/null || true
    done
    echo "removed, with settings, caches and users"
else
    echo "removed; /etc/model-server, /var/cache/model-server* and the users are still there (--purge takes them too)"
fi
