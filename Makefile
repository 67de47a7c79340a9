# Everything that a developer or CI runs. Each target brings what it needs.

.PHONY: demo test soak build check

## Two throwaway Postgres servers, a small shop, and trucker between them. DEMO_SECONDS=N ends it by itself.
demo: postgres
	cargo build --release --locked --bin trucker
	target=$$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/') && \
	exec "$$target/release/trucker" demo

## All tests, against real servers. TRUCKER_SOAK=1 lengthens the loops, TRUCKER_BIG=1 the largest transaction.
test: postgres
	cargo test --locked

## Fresh seeds of random faults for SOAK_MINUTES (10); stops at the first difference, says the seed, keeps the logs.
soak: postgres
	SOAK_MINUTES=$${SOAK_MINUTES:-10} cargo test --locked --test fault whatever -- --nocapture

build:
	cargo build --release --locked

## What CI checks before it runs the tests.
check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: postgres
postgres:
	@scripts/ensure-postgres
