#!/usr/bin/env bash
# Prepares this host for deployments: users, units, the command `model-server`. Run again, it brings them up to date.
# It starts nothing, installs no package, keeps settings that are there, and overwrites no file but its own.
# uninstall.sh takes away what it made.
# usage: sudo deploy/systemd/install.sh [--deploy-user NAME] [--device cuda|ipu]
#   --deploy-user NAME   let NAME, too, run `sudo model-server` without a password: enough for remote.sh and workflows
#   --device cuda|ipu    let the model processes open this machine's accelerators, also after later runs without it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
umask 022

units=/etc/systemd/system
device_unit=$units/model-server-supervisor.service.d/device.conf
library=/usr/local/lib/model-server
manifest=$library/manifest
# What `uninstall.sh --purge` leaves, because it was there before; no file where there was nothing.
found=/etc/model-server/found-before
releases=/opt/model-server
sudoers=/etc/sudoers.d/model-server
deploy_user='' device=''

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --deploy-user | --device) [ $# -gt 1 ] || fail "$1 needs a value" ;;
        *) fail "unknown argument $1" ;;
    esac
    case $1 in
        --deploy-user) deploy_user=$2 ;;
        --device) device=$2 ;;
    esac
    shift 2
done
[ "$(id -u)" -eq 0 ] || fail "needs root"
[ -d /run/systemd/system ] || fail "this host does not run systemd"
[[ $device =~ ^(cuda|ipu|)$ ]] || fail "--device is cuda or ipu"
[ -z "$deploy_user" ] || id "$deploy_user" >/dev/null || fail "there is no user $deploy_user"

# The lock of deployments: one that goes on must not have its units and its tool exchanged.
mkdir -p "$releases"
exec 9>"$releases/lock"
flock --nonblock 9 || {
    echo "install.sh: another deployment is going on" >&2
    exit 75
}

# want MODE FROM TO: a file that is to be installed.
want() {
    modes+=("$1") sources+=("$2") places+=("$3")
}

# installed FILE: an earlier run has put it there.
installed() {
    [ -e "$manifest" ] && grep -qxF -- "$1" "$manifest"
}

# note FILE...: what uninstall.sh takes away.
note() {
    printf '%s\n' "$@" | sort -u >"$manifest.new"
    mv "$manifest.new" "$manifest"
}

# Users that are not ours by their comment in sysusers.conf, caches that are not by their owner, and what is noted.
there_before() {
    local name ours
    for name in model-server model-server-web model-server-build; do
        ours=''
        [[ $(getent passwd "$name") != *':Model server, '* ]] || ours=$name
        if [ -z "$ours" ] && { getent passwd "$name" || getent group "$name"; } >/dev/null; then echo "$name"; fi
        if [ -e "/var/cache/$name" ] && [ "$(stat -c %U "/var/cache/$name")" != "$ours" ]; then
            echo "/var/cache/$name"
        fi
    done
    [ ! -e "$found" ] || cat "$found"
}

# What an earlier run chose stays, and is brought up to date too.
if [ -z "$device" ] && [ -e "$device_unit" ] && installed "$device_unit"; then
    device=cuda
    ! grep -q char-ipu "$device_unit" || device=ipu
fi

modes=() sources=() places=()
for file in deploy/systemd/model-server*; do
    want 0644 "$file" "$units/${file##*/}"
done
[ -z "$device" ] || want 0644 "deploy/systemd/device-$device.conf" "$device_unit"
for file in deploy/host/*.py deploy/scripts/wait_ready.py; do
    want 0644 "$file" "$library/$file"
done
want 0755 deploy/systemd/uninstall.sh "$library/uninstall.sh"
want 0755 deploy/systemd/command.py /usr/local/sbin/model-server

rules=$(mktemp)
trap 'rm -f "$rules"' EXIT
[ ! -e "$sudoers" ] || cat "$sudoers" >"$rules"
if [ -n "$deploy_user" ]; then
    rule="$deploy_user ALL=(root) NOPASSWD: /usr/local/sbin/model-server"
    grep -qxF "$rule" "$rules" || echo "$rule" >>"$rules"
    visudo --check --quiet --file "$rules" || fail "sudo would not take a rule for $deploy_user"
    want 0440 "$rules" "$sudoers"
elif [ -e "$sudoers" ] && installed "$sudoers"; then
    want 0440 "$rules" "$sudoers"
fi

# Nothing is touched before all of it is known to be ours.
not_ours='is there already, and not from an installation: move it away; nothing was installed'
for number in "${!places[@]}"; do
    place=${places[number]}
    if [ -e "$place" ] || [ -L "$place" ]; then
        installed "$place" || cmp -s "${sources[number]}" "$place" || fail "$place $not_ours"
    fi
done
for place in "$releases"/{releases,venvs,current,previous,pending}; do
    [ ! -e "$place" ] || [ -e "$manifest" ] || fail "$place $not_ours"
done

mkdir -p "$library" "${found%/*}"
mapfile -t there < <(there_before)
[ ${#there[@]} -eq 0 ] || printf '%s\n' "${there[@]}" | sort -u >"$found"

# First the names of all: whatever cuts this off, uninstall.sh knows every file.
before=()
[ ! -e "$manifest" ] || mapfile -t before <"$manifest"
note "${before[@]}" "${places[@]}"
for number in "${!places[@]}"; do
    install -D -m "${modes[number]}" "${sources[number]}" "${places[number]}"
done
# What an earlier release had and this one has not.
for file in "${before[@]}"; do
    [[ " ${places[*]} " == *" $file "* ]] || rm -f -- "$file"
done
note "${places[@]}"

systemd-sysusers "$PWD/deploy/systemd/sysusers.conf"
[ -e /etc/model-server/env ] || install -m 0600 deploy/systemd/env /etc/model-server/env
systemctl daemon-reload
echo "installed; settings are in /etc/model-server/env, the next step is a deployment"
