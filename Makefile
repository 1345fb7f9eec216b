# What is done more than once. `make help` lists it.
#
# Everything is built in one profile, release: the demonstration needs it, the tests run the code
# as it ships (assertions are on in release), and a second profile would double the build.

CARGO ?= cargo
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)
export PG_CONFIG

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## Install what is missing on this machine (Debian packages)
	@scripts/setup

.PHONY: build
build: setup ## Build everything
	$(CARGO) build --release --locked --workspace

.PHONY: install
install: build ## Install the extension into PostgreSQL 15 (PG_CONFIG and DESTDIR are honoured)
	@scripts/install-extension --no-build

.PHONY: demo
demo: install ## Three servers, one set of tables, a node killed and brought back
	@scripts/demo

.PHONY: test
test: install ## Every test that a change must pass: unit, simulation, end to end
	@scripts/test

.PHONY: measurements
measurements: setup ## What single parts cost by themselves: the tests that are ignored otherwise, for a quiet machine
	$(CARGO) test --release --locked -p consensus -p node --lib -- --ignored --nocapture

.PHONY: test-quick
test-quick: setup ## The tests that need no server
	$(CARGO) test --release --locked --workspace --lib --bins

STORIES = $(basename $(notdir $(wildcard tests/*.rs)))

.PHONY: stories
stories: install ## Every end-to-end story, and nothing else
	@scripts/test $(addprefix --test ,$(STORIES))

.PHONY: story
story: install ## One end-to-end story: make story NAME=storm
	@scripts/test --test $(NAME)

# ONLY names some of them.
.PHONY: full-stories
full-stories: install ## The end-to-end stories at full size: an hour or two (HOURS=8 repeats them, ONLY="storm rows": some)
	@scripts/full-stories $(ONLY)

STEPS = 100000
.PHONY: histories
histories: install ## What clients see under each kind of fault, checked: STEPS=100000 each (FAULT=with_nodes_killed: one)
	@SYNOD_TEST_SIZE=full SYNOD_HISTORY_STEPS=$(STEPS) scripts/test --test histories -- --nocapture $(FAULT)

MINUTES = 120
.PHONY: soak
soak: setup ## Simulated clusters of the consensus core under faults, for MINUTES=120 (WORLD=damage: one kind; FROM: first seed)
	$(CARGO) run --release --locked -p simulation -- --minutes $(MINUTES) $(addprefix --world ,$(WORLD)) $(addprefix --from ,$(FROM))

.PHONY: seeded-bugs
seeded-bugs: setup ## Every rule broken on purpose, one after the other: the simulation must find each (BUG=Read: some)
	BUG=$(BUG) $(CARGO) test --release --locked -p simulation --features seeded_bugs --test seeded_bugs -- --nocapture
	$(CARGO) test --release --locked -p simulation --features seeded_bugs --test corruption_masks taken_for_nothing -- --nocapture

.PHONY: masks
masks: setup ## Every corruption mask of three nodes and four entries, in every story (long)
	MASKS=all $(CARGO) test --release --locked -p simulation --test corruption_masks -- --nocapture

MODEL =
.PHONY: models
models: setup ## The rules as small models, every state of them (MODEL=log: one; an hour or two in all)
	$(CARGO) run --release --locked -p models -- $(if $(MODEL),--model $(MODEL))

TARGET = all
SECONDS = 60
.PHONY: fuzz
fuzz: setup ## Hostile bytes for a decoder, searched by coverage: TARGET=peer_message SECONDS=600 (needs nightly)
	@scripts/fuzz $(TARGET) $(SECONDS)

.PHONY: bench
bench: install ## Against PostgreSQL's own quorum synchronous replication, side by side
	@bench/single-row-update

.PHONY: lint
lint: setup ## Formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

.PHONY: golden
golden: ## Write the golden transcripts and files anew; look at the difference before committing
	UPDATE_EXPECT=1 $(CARGO) test --release --locked --workspace --lib --bins

.PHONY: uninstall
uninstall: ## Remove the extension from PostgreSQL 15
	rm -f "$$($(PG_CONFIG) --pkglibdir)/pg_paxos.so"
	rm -f "$$($(PG_CONFIG) --sharedir)"/extension/pg_paxos.control
	rm -f "$$($(PG_CONFIG) --sharedir)"/extension/pg_paxos--*.sql
