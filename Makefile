# Each target is one npm script or one compose call; `make help` lists them.
.DEFAULT_GOAL := help
# An install that was interrupted must not look finished.
.DELETE_ON_ERROR:

# `docker compose`, or the older docker-compose. Only the targets that use it look for it.
COMPOSE = $(WITH_NGINX) $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

# For compose the environment takes precedence over .env. It uses the simulated gateways unless .env or the environment names others;
# gateways on this machine are http://host.docker.internal:8001 and :8002.
OTHER_GATEWAYS = $(GATEWAY_PRIMARY_URL)$(GATEWAY_FALLBACK_URL)$(shell grep -sE '^ *GATEWAY_(PRIMARY|FALLBACK)_URL=.' .env)
WITH_SIMULATED = GATEWAY_PRIMARY_URL=http://gateway-primary:8001 GATEWAY_FALLBACK_URL=http://gateway-fallback:8002 \
  GATEWAY_EMPTY_500=refused \
  $(COMPOSE) --profile gateways

# docker-compose.yml with docker/compose.ha.yml over it. A project of its own, because its queue is not that of `make up`.
HA = --project-name payrelay-ha --file docker-compose.yml --file docker/compose.ha.yml

# With the services of all profiles.
ALL = $(COMPOSE) --profile gateways --profile observability

# Uses an nginx image that is on this machine already; where no registry can be reached, it may be the only one.
ifeq ($(NGINX_TAG)$(shell grep -s '^ *NGINX_TAG=.' .env),)
LOCAL_NGINX = $(shell docker image ls --format '{{.Tag}}' nginx 2>/dev/null | grep -v none | sort -V | tail -1)
WITH_NGINX = $(if $(LOCAL_NGINX),NGINX_TAG=$(LOCAL_NGINX))
endif

INSTALLED := node_modules/.package-lock.json

##@ On this machine
.PHONY: run services test test-unit test-full demo chaos outage bench capacity rinha-local console lint format

run: $(INSTALLED) ## Run everything without Docker, until Ctrl-C (KEEP_DATA=1 keeps the data in .run/data)
	npm run run

services: $(INSTALLED) ## Redis and PostgreSQL alone, on private ports, until Ctrl-C; prints their URLs
	npm run services

test: $(INSTALLED) ## Lint, types, unit, integration and end-to-end tests
	npm test

test-unit: $(INSTALLED) ## The unit tests alone: no network, a few seconds
	npm run test:unit

test-full: $(INSTALLED) ## The tests that need more than Node, Redis and PostgreSQL: nginx, Chromium, Prometheus, Valkey
	npm run test:full

demo: $(INSTALLED) ## Play the Rinha scenario at human size, kill a worker, and show the verdict
	npm run demo

chaos: $(INSTALLED) ## Two minutes of random faults, then the verdict (CHAOS_SECONDS, CHAOS_SEED, CHAOS_SEEDS=1-20, CHAOS_TOPOLOGY, CHAOS_SHARDS)
	npm run chaos

outage: $(INSTALLED) ## Long outages with a long queue: are they calm? (OUTAGE_SECONDS, OUTAGE_QUEUED)
	npm run outage

bench: $(INSTALLED) ## The budgets, measured beside their baselines (PARTS="accept drain enqueue deep ledger durability shards fleet")
	npm run bench -- $(PARTS)

capacity: $(INSTALLED) ## What one payment costs each part, and what a deployment needs for 1,000 to 100,000 payments/s (ARGS=--help)
	npm run capacity -- $(ARGS)

rinha-local: $(INSTALLED) ## The Rinha scenario with k6 against plain processes, without Docker
	npm run rinha -- --local

console: $(INSTALLED) ## A REPL on the running `make run`, or on the services that the settings name
	npm run console

lint: $(INSTALLED) ## Find faults in style, promises, imports and words
	npm run lint

format: $(INSTALLED) ## Correct what can be corrected in style and imports
	npm run format

# npm warns of packages that want a newer Node than the one that installs (EBADENGINE). They run on the Node 24 that it installs.
# `npm install`, which changes versions, still shows all warnings.
#
# An npm before 11.7 removes the links of the other platforms' Nodes, and with them ours, which has the same name (npm/cli
# issue 4362). A rebuild links it again.
$(INSTALLED): package-lock.json
	npm ci --loglevel=error
	npm rebuild --ignore-scripts
	@touch $@

##@ With Docker
.PHONY: up up-ha down-ha monitor down logs restart ps rinha rinha-up rinha-down bench-rinha

up: ## Build and start the compose stack, on http://localhost:9999
	$(if $(strip $(OTHER_GATEWAYS)),$(COMPOSE),$(WITH_SIMULATED)) up --detach --build

up-ha: ## The same with a Redis primary, two replicas and three sentinels, and DURABILITY=replica (run `make down` first)
	$(if $(strip $(OTHER_GATEWAYS)),$(COMPOSE),$(WITH_SIMULATED)) $(HA) up --detach --build

down-ha: ## Stop and remove it; its data stay (ARGS=--volumes removes them, too)
	$(COMPOSE) $(HA) --profile gateways down $(ARGS)

monitor: ## Add Prometheus and Grafana to the running stack, on http://localhost:9090 and :3000
	$(COMPOSE) --profile observability up --detach --no-deps prometheus grafana

down: ## Stop and remove the containers; the data stay (ARGS=--volumes removes them, too)
	$(ALL) down $(ARGS)

logs: ## Follow the logs (ARGS="--tail 20 worker1" instead)
	$(ALL) logs $(or $(ARGS),--follow --tail 100)

# A node only stops when the other one takes payments, so clients notice nothing.
restart: ## Restart API nodes and worker with the current source, one after the other
	for node in app1 app2; do \
	  $(COMPOSE) restart $$node && docker/until-healthy.sh $$($(COMPOSE) ps -q $$node) || exit 1; \
	done
	$(COMPOSE) restart worker1

ps: ## Show the containers and their health
	$(ALL) ps

rinha: $(INSTALLED) ## The Rinha scenario with k6 against the stack inside the challenge's limits (SCENARIO=final, RUNS, MAX_REQUESTS)
	$(WITH_NGINX) npm run rinha

rinha-up: $(INSTALLED) ## Start only that stack and its gateways, for the challenge's own scripts
	$(WITH_NGINX) npm run rinha -- --up

rinha-down: $(INSTALLED) ## Remove both with their data
	$(WITH_NGINX) npm run rinha -- --down

bench-rinha: $(INSTALLED) ## The Rinha scenario by turns against Payrelay and a naive build (BENCH_ROUNDS)
	$(WITH_NGINX) npm run bench:rinha

##@ Other
.PHONY: clean help

clean: ## Remove what was installed here: node_modules (the stack's data: make down ARGS=--volumes)
	rm -rf node_modules

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
