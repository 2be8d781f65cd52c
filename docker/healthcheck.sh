#!/bin/bash
# Health check of the containers that run Node. The image has neither curl nor wget, and a Node process for every check would
# cost many times the CPU of these few lines. A process that hangs does not respond, and Docker ends the check after its timeout.
#
#   healthcheck.sh PATH STATUS [PORT]   the process responds to GET PATH with STATUS, at $PORT when no port is given
set -eu

exec 3<>"/dev/tcp/127.0.0.1/${3:-${PORT:-9999}}"
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
read -r _ status _ <&3
[ "$status" = "$2" ] || { echo "the response to GET $1 was $status"; exit 1; }
