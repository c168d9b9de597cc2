#!/usr/bin/env bash
# Prepares this host for deployments: users, units, the command `model-server`. Run again, it brings them up to date.
# It starts nothing, installs no package, and keeps settings that are there. uninstall.sh takes away what it made.
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

# put MODE FROM TO: installs one file and notes it for uninstall.sh.
put() {
    install -D -m "$1" "$2" "$3"
    grep -qxF "$3" "$manifest" || echo "$3" >>"$manifest"
}

# The lock of deployments: one that goes on must not have its units and its tool exchanged.
mkdir -p "$library" "$releases" /etc/model-server
exec 9>"$releases/lock"
flock --nonblock 9 || {
    echo "install.sh: another deployment is going on" >&2
    exit 75
}
touch "$manifest"

# What an earlier run chose stays, and is brought up to date too.
if [ -z "$device" ] && [ -e "$device_unit" ]; then
    device=cuda
    ! grep -q char-ipu "$device_unit" || device=ipu
fi

for file in deploy/systemd/model-server*; do
    put 0644 "$file" "$units/${file##*/}"
done
[ -z "$device" ] || put 0644 "deploy/systemd/device-$device.conf" "$device_unit"
for file in deploy/host/*.py deploy/scripts/wait_ready.py; do
    put 0644 "$file" "$library/$file"
done
put 0755 deploy/systemd/uninstall.sh "$library/uninstall.sh"
put 0755 deploy/systemd/command.py /usr/local/sbin/model-server

if [ -n "$deploy_user" ]; then
    scratch=$(mktemp)
    trap 'rm -f "$scratch"' EXIT
    rule="$deploy_user ALL=(root) NOPASSWD: /usr/local/sbin/model-server"
    [ ! -e "$sudoers" ] || grep -vxF "$rule" "$sudoers" >"$scratch" || true
    echo "$rule" >>"$scratch"
    visudo --check --quiet --file "$scratch" || fail "sudo would not take a rule for $deploy_user"
    put 0440 "$scratch" "$sudoers"
fi

systemd-sysusers "$PWD/deploy/systemd/sysusers.conf"
[ -e /etc/model-server/env ] || install -m 0600 deploy/systemd/env /etc/model-server/env
systemctl daemon-reload
echo "installed; settings are in /etc/model-server/env, the next step is a deployment"
