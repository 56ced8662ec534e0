PYTHON ?= python3
BIN := .venv/bin
# What each RPC does, by clients that can show credentials; the other tests connect in ways of their own.
SECURE_TESTS := smoke commands subscribe queries lists watch replay
PROTOS := $(shell find protos -name '*.proto')

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: install
install: .venv/installed build/generated ## Make .venv with everything, generated code included.

.venv/installed: pyproject.toml hatch_build.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ build/generated

# An editable install does not notice that a .proto changed.
build/generated: $(PROTOS) hatch_build.py | .venv/installed
	$(BIN)/python hatch_build.py
	@touch $@

.PHONY: proto
proto: install ## Regenerate the code of protos/.
	$(BIN)/python hatch_build.py
	@touch build/generated

.PHONY: contract
contract: install ## Write docs/contract.md anew from the comments in protos/.
	$(BIN)/python -m docs.contract

.PHONY: demo
demo: install ## Two stories through two real services, told in a few seconds.
	@$(BIN)/python -m examples.demo

.PHONY: run
run: install ## Both services in the foreground, on ports 50051 and 50052, data in ./data.
	@$(BIN)/python -m examples.run

.PHONY: lint
lint: install ## Format, lint and type checks, of Python and of the contract.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos

NODE_MODULES := examples/node/node_modules/.package-lock.json

.PHONY: node
node: install $(NODE_MODULES) ## What the clients in examples/node need; Node itself is in .venv.

$(NODE_MODULES): examples/node/package.json examples/node/package-lock.json | .venv/installed
	cd examples/node && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --silent
	@touch $@

.PHONY: test
test: install node ## The whole test suite.
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: test-secure
test-secure: install ## Tests of the services once more, with TLS, certificates and tokens.
	TEST_SECURE=1 $(BIN)/pytest --numprocesses 2 --dist loadfile $(SECURE_TESTS:%=tests/services/test_%.py)

.PHONY: check
check: lint test test-secure ## What a change has to pass: lint, then the tests.

.PHONY: dev-credentials
dev-credentials: install ## An authority, certificates and a token to try TLS with, in ./dev-credentials.
	@$(BIN)/python -m examples.dev_credentials

.PHONY: run-secure
run-secure: install ## The same as run, with TLS and tokens, by the files in ./dev-credentials.
	@$(BIN)/python -m examples.run --secure

.PHONY: matrix
matrix: install ## What every RPC answers to every kind of credentials.
	@$(BIN)/python -m tests.security.matrix

.PHONY: audit
audit: install ## Look for known weaknesses of the packages that are installed.
	$(BIN)/pip freeze --exclude-editable | $(BIN)/pip-audit --strict --no-deps --disable-pip -r /dev/stdin

.PHONY: torture
torture: install ## Both services under every fault, with 2 seeds each; SEEDS=20, FAULT=cut, SEED=7.
	@$(BIN)/python -m tests.torture $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FAULT),--fault '$(FAULT)') \
		$(if $(SEED),--seed $(SEED))

.PHONY: failover
failover: install .venv/failover ## A primary of three PostgreSQL is killed under load, and comes back; FAILOVERS=5.
	@$(BIN)/python -m tests.failover $(if $(FAILOVERS),--failovers $(FAILOVERS))

.venv/failover: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[failover]'
	@touch $@ build/generated

.PHONY: fuzz
fuzz: install ## Hostile input to both services, other than the last time; EXAMPLES=5000, SEED=7.
	EXAMPLES=$(or $(EXAMPLES),1000) $(BIN)/pytest tests/fuzzing $(if $(SEED),--hypothesis-seed=$(SEED))

.PHONY: model
model: install ## Both services simulated, and failing, other than the last time; EXAMPLES=5000, SEED=7.
	EXAMPLES=$(or $(EXAMPLES),1000) $(BIN)/pytest tests/model/test_model.py --capture=no -k invariants \
		$(if $(SEED),--hypothesis-seed=$(SEED))

.PHONY: bench
bench: install .venv/bench ## Measure the services on this machine; ONLY=commands: one group.
	@$(BIN)/python -m benchmarks $(ONLY:%=--only %)

.PHONY: bench-long
bench-long: install .venv/bench ## The same, with what takes long: millions of events.
	@$(BIN)/python -m benchmarks --long $(ONLY:%=--only %)

.venv/bench: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@ build/generated

.PHONY: clean
clean: ## Remove what the targets above have made; ./data and ./dev-credentials are kept.
	rm -rf .venv build dist examples/node/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
