#!/bin/bash
# Health checks of the containers that run Node. The image has neither curl nor wget, and a Node process for every check
# would cost a hundred times the CPU of these few lines of bash.
#
#   healthcheck.sh http PATH STATUS   the service on $PORT responds to GET PATH with STATUS
#   healthcheck.sh worker             the worker neither hangs in the kernel nor is stopped, and is connected to its Redis
set -eu

http() {
  exec 3<>"/dev/tcp/127.0.0.1/$PORT"
  printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
  read -r _ status _ <&3
  [ "$status" = "$2" ] || { echo "the response to GET $1 was $status"; return 1; }
}

# A worker listens on no port. From outside only its state and its connections are visible. It watches its own progress:
# src/queue/watchdog.ts ends it when payments wait and none is taken.
worker() {
  local pid state port
  pid=$(pgrep_node) || { echo 'no worker is running'; return 1; }
  state=$(sed 's/.*) \(.\).*/\1/' "/proc/$pid/stat")
  case $state in R | S) ;; *) echo "the worker is in state $state"; return 1 ;; esac
  port=$(redis_port)
  # Columns of /proc/net/tcp: remote address:port in hexadecimal, and state 01 = established.
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    grep -qE "^ *[0-9]+: [0-9A-F]+:[0-9A-F]+ [0-9A-F]+:$(printf '%04X' "$port") 01 " ||
    { echo "the worker has no connection to port $port of Redis"; return 1; }
}

# The process that runs src/main.ts; procps is not in the image.
pgrep_node() {
  local dir
  for dir in /proc/[0-9]*; do
    if [ "$(tr '\0' ' ' <"$dir/cmdline" 2>/dev/null)" = 'node src/main.ts ' ]; then
      basename "$dir"
      return
    fi
  done
  return 1
}

redis_port() {
  local port
  port=${REDIS_CLUSTER_NODES:-${REDIS_URL:-x:${REDIS_PORT:-6379}}}
  port=${port%%,*}  # the first node of a cluster
  port=${port##*:}  # what follows the last colon ...
  port=${port%%/*}  # ... up to the number of the database
  case $port in '' | *[!0-9]*) echo 6379 ;; *) echo "$port" ;; esac
}

"$@"
