#!/usr/bin/env bash
# Deploys to a host over ssh: what the workflows run, and anybody with the key from a laptop.
#
# usage: deploy/remote.sh COMMAND
#   setup [OPTION...]   prepare the host (deploy/systemd/install.sh with its options); needs full sudo there
#   deploy              serve the commit that is checked out; prepares the host first if it may
#   rollback            serve the release before
#   apply, start, stop, status, logs   see `sudo model-server --help` on the host
#
# environment: HOST_IP, DEPLOY_USER, SSH_PORT (default 22)
#   SSH_KEY or SSH_KEY_FILE                   the private key, or where it is
#   SSH_KNOWN_HOSTS or SSH_KNOWN_HOSTS_FILE   the host's public key as ssh-keyscan prints it; without it nothing is sent
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "remote.sh: $1" >&2
    exit 1
}

check_settings() {
    : "${HOST_IP:=}" "${DEPLOY_USER:=}" "${SSH_PORT:=22}"
    [[ $HOST_IP =~ ^[A-Za-z0-9][A-Za-z0-9.:-]*$ ]] || fail "HOST_IP must be a name or an address"
    [[ $DEPLOY_USER =~ ^[A-Za-z_][A-Za-z0-9_.-]*$ ]] || fail "DEPLOY_USER must be a user's name"
    [[ $SSH_PORT =~ ^[0-9]+$ ]] || fail "SSH_PORT must be a number"
    [ -n "${SSH_KEY:-}${SSH_KEY_FILE:-}" ] || fail "SSH_KEY or SSH_KEY_FILE must be set"
}

# Keeps the key in a folder that only we can read, and that goes whatever happens.
open_connection() {
    private=$(umask 077 && mktemp -d)
    trap 'rm -rf "$private"' EXIT
    trap 'exit 130' INT TERM HUP
    show_host_key_and_stop_unless_pinned
    write_private key "${SSH_KEY:-}" "${SSH_KEY_FILE:-}"
    write_private known_hosts "${SSH_KNOWN_HOSTS:-}" "${SSH_KNOWN_HOSTS_FILE:-}"
    unset SSH_KEY
    ssh_options=(
        -F /dev/null -T -p "$SSH_PORT" -i "$private/key"
        -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes
        -o "UserKnownHostsFile=$private/known_hosts" -o GlobalKnownHostsFile=/dev/null
        -o ConnectTimeout=15 -o ServerAliveInterval=15 -o ServerAliveCountMax=8
    )
}

# write_private NAME TEXT FILE: the text, or else the content of the caller's file, with one newline at the end.
write_private() {
    (umask 077 && if [ -n "$2" ]; then printf '%s\n' "$2"; else cd "$called_from" && cat -- "$3"; fi | tr -d '\r' >"$private/$1")
}

show_host_key_and_stop_unless_pinned() {
    [ -z "${SSH_KNOWN_HOSTS:-}${SSH_KNOWN_HOSTS_FILE:-}" ] || return 0
    echo "The host's key is not pinned, so nothing was sent. $HOST_IP shows this key now:"
    ssh-keyscan -T 15 -p "$SSH_PORT" "$HOST_IP" >"$private/scan" 2>"$private/scan.log" || true
    [ -s "$private/scan" ] || fail "$HOST_IP port $SSH_PORT shows no key: $(tail -n 1 "$private/scan.log")"
    # A workflow's log masks an address that is a secret; pinned with stars in its place, the key would be any host's.
    sed "s/$HOST_IP/<HOST_IP>/" "$private/scan"
    ssh-keygen -l -f "$private/scan"
    echo "Compare the fingerprint with what the host itself says (ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub)."
    echo "If it is the same, save the key's line, with the address in the place of <HOST_IP>, as the secret"
    echo "SSH_KNOWN_HOSTS and start again."
    exit 1
}

on_host() {
    # shellcheck disable=SC2029  # what is expanded here is checked, or is quoted for the other side
    ssh "${ssh_options[@]}" "$DEPLOY_USER@$HOST_IP" "$@"
}

# The commit's own files, the same bytes wherever they are packed.
pack() {
    commit=$(git rev-parse --verify HEAD)
    [ -z "$(git status --porcelain)" ] || echo "note: uncommitted changes are not part of the release"
    git -c tar.umask=0022 -c core.autocrlf=false -c core.eol=lf archive --format=tar HEAD \
        .env LICENSE deploy ipu_supervisor requirements service \
        | gzip -9 -n >"$private/release.tar.gz"
    checksum=$(sha256sum "$private/release.tar.gz" | cut -d ' ' -f 1)
    echo "release $commit, $(wc -c <"$private/release.tar.gz") bytes, sha256 $checksum"
}

setup() {
    # Unpacked for the user, then run by root: whoever may do this is root on that host anyway.
    on_host "set -eu; d=\$(mktemp -d); trap 'rm -rf \$d' EXIT; cat >\$d/r.tar.gz
        echo '$checksum' \$d/r.tar.gz | sha256sum --check --quiet
        tar --extract --gzip --directory \$d --file \$d/r.tar.gz
        sudo -n bash \$d/deploy/systemd/install.sh ${*@Q}" <"$private/release.tar.gz"
}

# Whoever may do everything on the host also keeps its units up to date; for others an administrator does.
deploy() {
    local rights
    rights=$(on_host 'if sudo -n true 2>/dev/null; then echo all
        elif test -x /usr/local/sbin/model-server; then echo deploy; else echo none; fi') \
        || fail "could not ask $HOST_IP as $DEPLOY_USER; nothing was sent"
    case ${rights##*$'\n'} in
        all) setup --deploy-user "$DEPLOY_USER" ;;
        deploy) ;;
        *) fail "this host is not prepared: let an administrator run \`remote.sh setup --deploy-user $DEPLOY_USER\`" ;;
    esac
    on_host "sudo -n /usr/local/sbin/model-server deploy $commit $checksum" <"$private/release.tar.gz"
}

main() {
    local command=${1:-}
    [[ $command =~ ^(setup|deploy|rollback|apply|start|stop|status|logs)$ ]] || fail "usage: see the top of this file"
    shift
    check_settings
    open_connection
    case $command in
        # Two lines each: in `pack && deploy` a pack that fails half-way would go on.
        setup)
            pack
            setup "$@"
            ;;
        deploy)
            pack
            deploy
            ;;
        *) on_host "sudo -n /usr/local/sbin/model-server $command" ;;
    esac
}

main "$@"
