# What can be done with a checkout. `demo`, `test`, `bench`, `drivers` and `api` set up for
# themselves: they need Rust and a linker, and fetch Postgres if the machine has none; `test`
# also fetches newer versions of it, by npm, a browser and Prometheus.

.PHONY: help setup demo test page torture faults lint bench drivers api fuzz manifests book docs
.DEFAULT_GOAL := help

# Where cargo builds to, and the longest that a source file may be.
target := $(or $(CARGO_TARGET_DIR),target)
lines_max := 400

# Goes before a command that starts Postgres servers: sets up, and says where Postgres is.
with_postgres = TENANTRY_PG_BIN=$$(ops/setup/postgres) && export TENANTRY_PG_BIN &&
# The same for newer versions of it.
with_versions = TENANTRY_PG_VERSIONS=$$(ops/setup/postgres-versions) && export TENANTRY_PG_VERSIONS &&
# The same for a browser.
with_browser = TENANTRY_CHROMIUM=$$(ops/setup/chromium) && export TENANTRY_CHROMIUM &&

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 11

setup: ## fetch what the machine lacks, and nothing else
	@ops/setup/tools
	@ops/setup/postgres
	@ops/setup/postgres-versions
	@ops/setup/chromium
	@ops/setup/prometheus

demo: ## a whole fleet, its main job under load, and the outcome (ARGS='--tenants 40')
	@$(with_postgres) cargo build --release --locked && \
		$(target)/release/tenantry demo $(ARGS)

test: ## all tests, on real Postgres servers
	@$(with_postgres) $(with_versions) $(with_browser) cargo test --workspace --locked --features failpoints

page: ## the page in a real browser, on a real fleet; writes its pictures to docs/images
	@$(with_postgres) $(with_browser) TENANTRY_PAGE_IMAGES=$(CURDIR)/docs/images \
		cargo test --locked --features failpoints --test it -- page_

torture: ## many moves with faults drawn by lot (MOVES=200 SEED=1)
	@$(with_postgres) TENANTRY_TORTURE_MOVES=$(or $(MOVES),200) TENANTRY_TORTURE_SEED=$(or $(SEED),1) \
		cargo test --locked --features failpoints --test it -- torture::

faults: ## each point of a move with each fault; writes docs/move-faults.md (CELLS=missing, or names of points)
	@$(with_postgres) TENANTRY_FAULTS=$(or $(CELLS),all) \
		cargo test --locked --features failpoints --test it -- faults::

docs: ## write the pages that come from the code
	@TENANTRY_WRITE_DOCS=1 cargo test --locked --features failpoints --bin tenantry -- the_reference

lint: ## formatting, clippy, docs, lengths; with cargo-deny also licences and duplicates
	@cargo fmt --all --check
	@cargo fmt --manifest-path fuzz/Cargo.toml --check
	@cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet
	@find . -name '*.rs' ! -path './target/*' ! -path '*/tests/*' ! -name tests.rs \
		-exec awk 'FNR == $(lines_max) + 1 { print FILENAME ": over $(lines_max) lines"; long = 1 } \
		END { exit long }' {} +
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check bans licenses sources; fi

bench: ## measure beside pgbouncer, on real Postgres servers (ARGS='router 5 5')
	@$(with_postgres) benches/run $(ARGS)

fuzz: ## the parsers against inputs that libFuzzer finds (ARGS='300 sql': seconds, targets)
	@fuzz/run $(ARGS)

drivers: ## the router against Postgres drivers of other languages
	@$(with_postgres) tests/drivers/run $(ARGS)

api: ## Schemathesis against the API: no 500, no answer that is not described (ARGS='--max-examples 200')
	@$(with_postgres) tests/api/run $(ARGS)

manifests: ## ops/kubernetes and ops/docker, against their schemas
	@ops/check

book: ## docs as a book under target/book, with mdBook if it is there
	@if command -v mdbook >/dev/null; then mdbook build docs; else echo 'no mdbook here: cargo install mdbook'; fi
