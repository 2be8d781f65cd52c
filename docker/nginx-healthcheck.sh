#!/bin/sh
# Health check of the load balancer: it responds, and so does a node behind it.
#
# nginx looks names up only when it starts. Docker gives a restarted container any free address, so after a restart of
# both nodes each may have the other's. Then nginx must look again. A reload costs no request.
set -u

if nodes=$(getent hosts app1 app2) && [ "$nodes" != "$(cat /tmp/nodes 2>/dev/null)" ]; then
  echo "$nodes" >/tmp/nodes
  nginx -s reload
fi
exec curl -fsS -m 2 -o /dev/null http://127.0.0.1:9999/health/live
