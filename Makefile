# make demo: the whole pipeline on a small real model and the sample corpus, without a GPU (downloads packages, 93 MB model)
# make test: all tests (downloads the same model unless make demo did)    make test-fast: those that take less than a second each, for daily work
# make lint: the checks of the code's form    make format: mend them
# make run: the whole pipeline on google/gemma-2-9b-it (GPU)
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# A worker of pytest a core, at most four and as many as the memory takes (tests/conftest.py); a file's tests share one.
WORKERS := -n auto --dist loadfile --no-loadscope-reorder
DEMO := outputs/demo
DEMO_MODEL := outputs/smollm2-135m-instruct

.PHONY: demo test test-fast lint format run
.DELETE_ON_ERROR:

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

test: $(VENV)/installed
	$(RUN) -m pytest $(WORKERS)

test-fast: $(VENV)/installed
	$(RUN) -m pytest $(WORKERS) -m "not slow"

lint: $(VENV)/installed
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

format: $(VENV)/installed
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

demo: $(VENV)/installed
	rm -rf $(DEMO) $(DEMO)-data
	$(RUN) -m tools.demo_model --output-dir $(DEMO_MODEL)
	$(RUN) prepare_data.py --output-dir $(DEMO)-data
	$(RUN) finetune.py --base-model $(DEMO_MODEL) --data-dir $(DEMO)-data --run-dir $(DEMO) \
		--epochs 2 --learning-rate 1e-3 --effective-batch-size 8
	$(RUN) evaluate.py --adapter $(DEMO) --data-dir $(DEMO)-data --robustness-rows 24
	$(RUN) predict.py --adapter $(DEMO) --topic "Vegans are right." --text "It's all about finding a system that works for you."

run: $(VENV)/installed
	$(RUN) prepare_data.py
	$(RUN) finetune.py
	$(RUN) evaluate.py
	$(RUN) predict.py --topic "Vegans are right." --text "It's all about finding a system that works for you."
