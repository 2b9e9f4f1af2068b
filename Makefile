# Every target is a task of dev.py, which also runs where make doesn't: `python dev.py TASK`.
# Arguments pass through: make test ARGS="-k mix", make chat ARGS="-p hello"
PYTHON ?= python3
ARGS ?=
TASKS := setup chat demo test test-legacy lint bench soak clean

.PHONY: help $(TASKS)
help:
	@$(PYTHON) dev.py --help
$(TASKS):
	@$(PYTHON) dev.py $@ $(ARGS)
