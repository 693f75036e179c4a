# Every command a person runs. `make help` lists them.
PYTHON ?= python3
LOCK ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(LOCK)
SERVE_VENV := .venv-serve
SERVE_READY := $(SERVE_VENV)/.ready-$(LOCK)
DEMO := licences_smollm135m
STAGES := prepare plan train eval export

prepare_MODULE := data_prep.prepare
plan_MODULE := finetune.plan
preflight_MODULE := finetune.preflight
train_MODULE := finetune.train
eval_MODULE := eval.evaluate
export_MODULE := finetune.export
serve-check_MODULE := eval.serve_check
fetch-base_MODULE := finetune.fetch_base
quantise-base_MODULE := finetune.quantise
show-mask_MODULE := finetune.show_mask
status_MODULE := finetune.status
audit_MODULE := finetune.show_audit
ask_MODULE := eval.ask
review_MODULE := eval.review

STAGE = $(BIN)/python -m $($@_MODULE) experiment=$(CONF) $(if $(RUN),"run='$(RUN)'") $(ARGS)
CHOICES = ls conf/experiment $(if $(CONF_DIR),"$(CONF_DIR)/experiment" 2>/dev/null) | sed -n 's/\.yaml$$//p' | sort | paste -sd ' '

.DEFAULT_GOAL := help
.PHONY: help setup setup-serve serve-check demo all fetch-base quantise-base preflight status audit verify publish show \
	show-mask ask review test check fix check-conf $(STAGES)

help: ## list the commands
	@grep -hE '^[a-z][a-z -]*:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 28
	@echo "CONF=<experiment>, one of: $$($(CHOICES)). RUN=<run id> names the input, ARGS=\"key=value …\" changes settings."

setup: $(READY) ## install everything into .venv (LOCK=cuda on a GPU machine)

$(READY): .ci/lock/$(LOCK).txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: Python 3.11, 3.12 or 3.13 is needed, not $$($(PYTHON) --version); set PYTHON=" >&2; exit 2; }
	@echo "installing $$(wc -l < $<) packages into $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -r $<
	@touch $@

setup-serve: $(SERVE_READY) ## vLLM into .venv-serve, for serve-check and eval.engine=vllm (LOCK=cuda on a GPU machine)

$(SERVE_READY): .ci/lock/serve-$(LOCK).txt
	@echo "installing $$(wc -l < $<) packages into $(SERVE_VENV), once"
	@$(PYTHON) -m venv --clear $(SERVE_VENV)
	@$(SERVE_VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r $<
	@touch $@

demo: $(READY) ## the whole pipeline on a real 135M model and real licence notices, on CPU
	@$(MAKE) --no-print-directory all CONF=$(DEMO)

all: check-conf $(READY) ## prepare, plan, train, eval, export; stops at the first refusal
	@[ -z "$(RUN)" ] || { echo "error: RUN= names the input of one stage, not of all" >&2; exit 2; }
	@set -e; for stage in $(STAGES); do $(MAKE) --no-print-directory $$stage; done

fetch-base: check-conf $(READY) ## copy the base once and pin it; FROM=<folder>, s3://… or hub, else where the config says
	@$(STAGE) $(if $(FROM),"model.base.source='$(FROM)'")

quantise-base: check-conf $(READY) ## the base in 4 bits, once; train makes it itself, eval and export read it too
	@$(STAGE)

prepare: check-conf $(READY) ## private documents to train, val and test files
	@$(STAGE)

plan: check-conf $(READY) ## memory, time, cost and licence, before a GPU is rented
	@$(STAGE)

preflight: check-conf $(READY) ## three real steps, a checkpoint and an evaluation batch, beside the plan
	@$(STAGE)

show-mask: check-conf $(READY) ## a few rows with what is learned in colour; ARGS="show.rows=5" or "show.ids=[id]"
	@$(STAGE)

train: check-conf $(READY) ## fine-tune an adapter on the prepared rows
	@$(STAGE)

eval: check-conf $(READY) ## adapter against base, retrieved examples and floors, with a gate
	@$(STAGE)

export: check-conf $(READY) ## merge what passed its gate, prove the merge equal, write the folder for the serving team
	@$(STAGE)

serve-check: check-conf $(READY) ## the export behind a real server: prompts, answers, speed; URL=http://… asks an endpoint
	@$(STAGE) $(if $(URL),"serve.url='$(URL)'")

status: check-conf $(READY) ## where each stage stands, and how far a training run is; from another shell
	@$(STAGE)

audit: check-conf $(READY) ## is the audit trail whole, and how an export came about, from raw data to signature
	@$(STAGE)

verify: $(READY) ## EXPORT=<folder> KEY=<public key>: is every byte as it was signed; needs nothing else
	@$(BIN)/python -m finetune.verify --export "$(EXPORT)" --key "$(KEY)"

publish: $(READY) ## EXPORT=<folder> TO=<URL>: copy, read back, name it current; ROLLBACK=<name>/<run> goes back
	@$(BIN)/python -m finetune.publish --export "$(EXPORT)" --to "$(TO)" --key "$(KEY)" --rollback "$(ROLLBACK)"

ask: check-conf $(READY) ## your own prompts, base and adapter side by side; FILE=prompts.txt, .jsonl or -, OUT=new.jsonl
	@$(STAGE) $(if $(FILE),"ask.file='$(FILE)'") $(if $(OUT),"ask.out='$(OUT)'")

review: check-conf $(READY) ## a blinded sheet for experts; FILE=<filled sheets, commas between, or a folder> scores them
	@$(STAGE) $(if $(FILE),"review.file='$(FILE)'")

check-conf:
	@[ -n "$(CONF)" ] || { echo "error: no experiment given; add CONF=<name>, one of: $$($(CHOICES))" >&2; exit 2; }
	@[ -f "conf/experiment/$(CONF).yaml" ] || [ -f "$(CONF_DIR)/experiment/$(CONF).yaml" ] || \
		{ echo "error: experiment $(CONF) does not exist; one of: $$($(CHOICES))" >&2; exit 2; }

show: check-conf $(READY) ## the composed configuration of CONF=
	@$(BIN)/python -m finetune.config experiment=$(CONF) $(ARGS)

test: $(READY) ## the tests; with vLLM's, once it is installed beside
	@$(MAKE) --no-print-directory setup-serve || echo "note: vLLM could not be installed here; its tests are skipped"
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY) ## lint, format, types, spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs conf finetune data_prep eval scripts tests Makefile

fix: $(READY) ## apply what lint and format can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
