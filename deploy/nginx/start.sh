#!/bin/sh
# What the nginx container runs: fills the two settings into nginx.conf and becomes nginx.
# start.sh reload, in a container that runs: fills them in again, and nginx reads all of its files anew.
set -eu

sed -e "s|@MAX_REQUEST_BYTES@|$SERVER_MAX_REQUEST_BYTES|" -e "s|@PORT@|$SERVER_PORT|" \
    /etc/model-server/nginx.conf >/tmp/nginx.conf
[ "${1:-}" != reload ] || exec nginx -c /tmp/nginx.conf -s reload
exec nginx -c /tmp/nginx.conf -g 'daemon off;'
