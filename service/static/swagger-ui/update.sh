#!/bin/sh
# Fetch swagger-ui-dist from the npm registry and keep the files that /docs needs. Usage: ./update.sh [VERSION]
set -eu
version="${1:-5.35.0}"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "swagger-ui-dist@$version" && tar -xzf ./*.tgz)
for file in swagger-ui.css swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt favicon-32x32.png LICENSE NOTICE; do
    cp "$work/package/$file" "$here/$file"
done
# The source maps are not shipped, so the browser must not be sent to look for them.
sed -i '/sourceMappingURL/d' "$here/swagger-ui-bundle.js"
sed -i 's|/\*# sourceMappingURL=[^*]*\*/||' "$here/swagger-ui.css"
