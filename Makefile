# Every target works from a fresh clone; what was done once is not done again.
.DEFAULT_GOAL := help
.PHONY: help run test soak check bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

run: ## install what is needed, then serve on http://127.0.0.1:8000
	@scripts/setup.sh core
	@scripts/page.sh || true
	@exec .venv/bin/parlance serve

test: ## the whole suite: Python, TypeScript, browser, real servers
	@scripts/setup.sh dev
	@scripts/test-packages.sh
	@scripts/s3-server.sh
	@scripts/weaviate-server.sh
	@.venv/bin/parlance models environment >/dev/null || true
	@scripts/test.sh

soak: ## the long tests: many seeds, full matrices, hours of media
	@scripts/setup.sh dev
	@scripts/test-packages.sh
	@scripts/s3-server.sh
	@scripts/weaviate-server.sh
	@.venv/bin/parlance models environment >/dev/null || true
	@scripts/page.sh || true
	@.venv/bin/python -m pytest tests -m soak

check: ## format, lint, types, import contracts, generated files, unit tests
	@scripts/setup.sh dev
	@scripts/check.sh

bench: ## every benchmark; writes bench/results and prints the table
	@scripts/setup.sh dev
	@.venv/bin/python -m bench

clean: ## remove environments, builds and caches; recordings in data/ stay
	rm -rf .venv .venv-models .tools build clients/js/node_modules clients/js/*/node_modules clients/js/*/dist
	rm -rf bench/node/node_modules
	rm -rf .mypy_cache .ruff_cache .import_linter_cache .hypothesis .pytest_cache *.egg-info clients/python/*.egg-info
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +
