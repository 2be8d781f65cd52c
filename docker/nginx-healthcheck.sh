#!/bin/sh
# Health check of the load balancer: it answers, and a node behind it does.
#
# nginx looks names up only when it starts. Docker gives a container that starts anew any free address, so that after a
# restart of both nodes either may have the other's: then nginx has to look again. A reload costs no request.
set -u

if nodes=$(getent hosts app1 app2) && [ "$nodes" != "$(cat /tmp/nodes 2>/dev/null)" ]; then
  echo "$nodes" >/tmp/nodes
  nginx -s reload
fi
exec curl -fsS -m 2 -o /dev/null http://127.0.0.1:9999/health/live
