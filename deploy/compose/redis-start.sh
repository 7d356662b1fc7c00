#!/bin/sh
# The Redis of compose.yaml. Its password is in a file, so it gets its configuration from one, too: a command line is
# there to read for everybody on the machine.
set -eu
umask 077
cat > /tmp/redis.conf <<CONFIGURATION
requirepass $(cat /run/secrets/redis_password)
# Nothing in it is worth keeping: what is lost is read from the database again.
save ""
appendonly no
dir /data
maxmemory 256mb
maxmemory-policy volatile-lru
CONFIGURATION
exec redis-server /tmp/redis.conf
