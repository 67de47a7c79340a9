# Everything that a developer or CI runs. Each target brings what it needs.

.PHONY: demo test test-matrix test-page soak fuzz build check

## Two throwaway servers, a small shop, and trucker between them. DEMO_SECONDS=N ends it by itself; DEMO=clickhouse has the rows
## go to ClickHouse.
demo: postgres $(filter clickhouse,$(DEMO))
	cargo build --release --locked --bin trucker
	target=$$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/') && \
	exec $(if $(filter clickhouse,$(DEMO)),scripts/with-clickhouse )"$$target/release/trucker" demo

## All tests, against real servers. TRUCKER_SOAK=1 lengthens the loops, TRUCKER_BIG=1 the largest transaction.
## Most of a test's time is waiting, so that there are four at once on a small machine too.
test: postgres clickhouse promtool
	cores=$$(getconf _NPROCESSORS_ONLN) && \
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((cores < 4 ? 4 : cores))} cargo test --locked

## The page in a real browser, with pictures of it.
test-page: postgres
	scripts/ensure-chromium
	cargo test --locked --test page -- --nocapture

## Fresh seeds of random faults for SOAK_MINUTES (10); stops at the first difference, says the seed, keeps the logs.
soak: postgres clickhouse
	SOAK_MINUTES=$${SOAK_MINUTES:-10} cargo test --locked --test fault whatever -- --nocapture

## The end-to-end tests between all major versions of Postgres, each once as source and once as output: half an hour.
test-matrix:
	scripts/test-matrix

## The tests of ClickHouse as an output with each version of it that scripts/ensure-clickhouse knows, but for the one of `make test`.
.PHONY: test-clickhouse-versions
CLICKHOUSE_VERSIONS ?= 26.7.3
test-clickhouse-versions: postgres
	@for version in $(CLICKHOUSE_VERSIONS); do \
		echo "== ClickHouse $$version"; scripts/ensure-clickhouse $$version && \
		TRUCKER_CLICKHOUSE=$$version cargo test --locked --test e2e clickhouse || exit 1; \
	done

## Each fuzz target for FUZZ_SECONDS, with cargo-fuzz and a nightly toolchain.
FUZZ_SECONDS ?= 300
fuzz:
	@for target in $$(cargo +nightly fuzz list); do \
		echo "== $$target"; mkdir -p fuzz/corpus/$$target; \
		cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

## trucker beside a native subscription, decoding alone and COPY, some minutes. BENCH=name for one scenario.
.PHONY: bench
bench: postgres
	cargo bench --locked --bench side_by_side

build:
	cargo build --release --locked

## What CI checks before it runs the tests.
check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: postgres clickhouse promtool
postgres:
	@scripts/ensure-postgres
clickhouse:
	@scripts/ensure-clickhouse
promtool:
	@scripts/ensure-promtool

## What contrib/ ships, by the programs that read it.
.PHONY: check-contrib static
check-contrib:
	scripts/check-contrib

## A binary that needs nothing of the machine it runs on, and the proof of it.
static:
	scripts/build-static
	scripts/check-static
