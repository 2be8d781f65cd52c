#!/bin/sh
# Starts a Redis server of docker/compose.ha.yml, in the role that the sentinels give it: a server that was the primary before
# may have missed a failover, and starts as a replica. No sentinel, no start: clients could not find it either.
#
#   redis.sh NAME   NAME is the host by which all others reach this server
set -eu
name=$1

# The reply of the first sentinel that responds.
ask() {
  for sentinel in sentinel1 sentinel2 sentinel3; do
    timeout 2 redis-cli -e -h "$sentinel" -p 26379 ${REDIS_SENTINEL_PASSWORD:+--no-auth-warning -a "$REDIS_SENTINEL_PASSWORD"} \
      sentinel "$@" mymaster 2>/dev/null && return
  done
}

while true; do
  primary=$(ask get-master-addr-by-name | head -n 1)
  case $primary in
    '') echo 'waiting for a sentinel' ;;
    "$name")
      # As the primary, a server that lost its disk would make the replicas delete their data. Where replicas are known, this is
      # not the first start. The sentinels promote one of them, because this server does not respond.
      if [ -e /data/appendonlydir ] || [ "$(ask master | sed -n '/^num-slaves$/{n;p}')" = 0 ]; then
        set --
        break
      fi
      echo 'the disk is empty: waiting until another server is the primary' ;;
    *)
      set -- --replicaof "$primary" 6379
      break ;;
  esac
  sleep 1
done

# Names, not addresses: a container that starts again may have another address. A sentinel's CONFIG REWRITE fails, because the
# file is read-only, and is not needed, because the role is asked for at each start.
exec docker-entrypoint.sh redis-server /usr/local/etc/redis/redis.conf \
  --dir /data --protected-mode no --maxmemory 256mb --repl-diskless-sync-delay 0 \
  --replica-announce-ip "$name" \
  --requirepass "${REDIS_PASSWORD:-}" --masterauth "${REDIS_PASSWORD:-}" \
  "$@"
