#!/bin/bash
# Health checks of the containers that run Node. The image has neither curl nor wget, and a Node process for every check
# would cost many times the CPU of these few lines.
#
#   healthcheck.sh http PATH STATUS   the service on $PORT responds to GET PATH with STATUS
#   healthcheck.sh worker             the worker neither hangs in the kernel nor is stopped, and is connected to its Redis
set -eu

# The tests name a directory that has only the processes that they have started.
proc=${PROC_DIRECTORY:-/proc}

http() {
  exec 3<>"/dev/tcp/127.0.0.1/${PORT:-9999}"
  printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
  read -r _ status _ <&3
  [ "$status" = "$2" ] || { echo "the response to GET $1 was $status"; return 1; }
}

# A worker listens on no port. From outside only its state and its connections are visible. It watches its own progress:
# src/queue/watchdog.ts ends it when payments wait and none is taken.
worker() {
  local dir fault='no worker is running'
  # `node --watch` runs the entry in a second process, and has the same arguments. One of the two is the worker.
  for dir in "$proc"/[0-9]*; do
    runs_entry "$dir" || continue
    fault=$(worker_fault "$dir")
    [ -n "$fault" ] || return 0
  done
  echo "$fault"
  return 1
}

# Whether a process is Node with src/main.ts, under any path and with any flags. The container's init has the same arguments,
# but begins with its own name.
runs_entry() {
  local argument arguments=()
  while IFS= read -r -d '' argument; do arguments+=("$argument"); done 2>/dev/null <"$1/cmdline" || return 1
  [ ${#arguments[@]} -gt 1 ] && [ "${arguments[0]##*/}" = node ] || return 1
  for argument in "${arguments[@]:1}"; do
    case $argument in src/main.ts | */src/main.ts) return 0 ;; esac
  done
  return 1
}

# Prints what is wrong with a worker, and nothing when all is well.
worker_fault() {
  local state sockets
  state=$(sed 's/.*) \(.\).*/\1/' "$1/stat")
  case $state in R | S) ;; *) echo "the worker is in state $state"; return ;; esac
  # Without stdin, stdout and stderr, which may be sockets, too.
  sockets=$(readlink "$1"/fd/[3-9] "$1"/fd/[1-9][0-9]*) 2>/dev/null || true
  connections_to_redis "$1/net" | grep -qxF "$sockets" || echo 'the worker has no connection to its Redis'
}

# The container's sockets that are connected to a Redis, each as a link in /proc/PID/fd names it. The rules are those of
# src/config.ts: REDIS_CLUSTER_NODES replaces REDIS_URL, which replaces the others. An empty one counts as not set.
connections_to_redis() {
  local authority node nodes=()
  if [ -n "${REDIS_CLUSTER_NODES:-}" ]; then
    IFS=', ' read -r -a nodes <<<"$REDIS_CLUSTER_NODES"
  elif [ -n "${REDIS_URL:-}" ]; then
    authority=${REDIS_URL#*://}
    authority=${authority%%[/?#]*}
    nodes=("${authority##*@}")
  elif [[ ${REDIS_HOST:-} = /* ]]; then
    # Only the server's end has the path, and the server is in another container. So any connected stream counts.
    awk '$5 == "0001" && $6 == "03" { print "socket:[" $7 "]" }' "$1/unix"
    return
  else
    nodes=("redis:${REDIS_PORT:-}")
  fi
  for node in "${nodes[@]}"; do
    # Column 3 is the remote address:port in hexadecimal; state 01 is established.
    awk -v port="$(printf ':%04X' "$(port_of "$node")")" \
      '$4 == "01" && substr($3, length($3) - 4) == port { print "socket:[" $10 "]" }' "$1/tcp" "$1/tcp6" 2>/dev/null || true
  done
}

# The port of host:port, where the host may be an IPv6 address in brackets. 6379 when there is none.
port_of() {
  local port=${1##*]}
  port=${port//[[:space:]]/}
  case $port in *:*[0-9]) echo "$((10#${port##*:}))" ;; *) echo 6379 ;; esac
}

"$@"
