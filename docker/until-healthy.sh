#!/bin/sh
# Waits until a container is healthy. Fails when it is not within a minute.
set -eu

for _ in $(seq 120); do
  [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ] && exit
  sleep 0.5
done
echo "the container $1 is not healthy: make ps, make logs" >&2
exit 1
