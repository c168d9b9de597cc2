#!/bin/sh
# What the nginx container runs: fills the two settings into nginx.conf and becomes nginx.
set -eu

sed -e "s|@MAX_REQUEST_BYTES@|$SERVER_MAX_REQUEST_BYTES|" -e "s|@PORT@|$SERVER_PORT|" \
    /etc/model-server/nginx.conf >/tmp/nginx.conf
exec nginx -c /tmp/nginx.conf -g 'daemon off;'
