#!/bin/sh
# Starts a sentinel of docker/compose.ha.yml. A sentinel writes what it learns into its configuration, which must outlive the
# container: without it, it would name the first primary again after a restart of all.
#
#   sentinel.sh NAME   NAME is the host by which the others reach this sentinel
set -eu

# When a sentinel writes its configuration, it does not quote passwords, and could not read it again.
case "${REDIS_PASSWORD:-}${REDIS_SENTINEL_PASSWORD:-}" in
  *[[:space:]\'\"#]*)
    echo 'REDIS_PASSWORD and REDIS_SENTINEL_PASSWORD must have no blanks, quotes and #' >&2
    exit 1 ;;
esac

# Names, not addresses: a container that starts again may have another address. Only the other containers reach this port. The
# two times are explained in docs/operating.md, "High availability".
if [ ! -e /data/sentinel.conf ]; then
  # Root may not write into the directory of another user here. The entrypoint gives it back to the user redis.
  chown "$(id -u)" /data
  cat >/data/sentinel.conf.new <<END
port 26379
dir /data
protected-mode no
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $1
sentinel monitor mymaster redis 6379 2
sentinel down-after-milliseconds mymaster 1000
sentinel failover-timeout mymaster 3000
${REDIS_PASSWORD:+sentinel auth-pass mymaster $REDIS_PASSWORD}
${REDIS_SENTINEL_PASSWORD:+requirepass $REDIS_SENTINEL_PASSWORD}
END
  mv /data/sentinel.conf.new /data/sentinel.conf
fi

exec docker-entrypoint.sh redis-server /data/sentinel.conf --sentinel
