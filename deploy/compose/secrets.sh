#!/bin/sh
# Makes the secrets that compose.yaml mounts, each only if it is not there yet, and a certificate that signs itself.
set -eu
cd "$(dirname "$0")"
# Containers read them as users of their own. The folder keeps everybody else out.
mkdir -p -m 700 secrets
umask 022
for name in pepper postgres_password db_password db_migrate_password redis_password grafana_password; do
    [ -s "secrets/$name" ] || openssl rand -hex 32 > "secrets/$name"
done
if [ ! -s secrets/tls.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout secrets/tls.key -out secrets/tls.crt 2> /dev/null
    cat secrets/tls.crt secrets/tls.key > secrets/tls.pem
    chmod 644 secrets/tls.*
fi
