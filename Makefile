# make demo: the whole pipeline on a tiny model, no GPU, no downloads but packages
# make test: the tests          make run: the whole pipeline on google/gemma-2-9b-it (GPU)
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := outputs/demo

.PHONY: demo test run
.DELETE_ON_ERROR:

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

test: $(VENV)/installed
	$(RUN) -m pytest

demo: $(VENV)/installed
	rm -rf $(DEMO) $(DEMO)-data
	$(RUN) make_tiny_model.py
	$(RUN) prepare_data.py --output-dir $(DEMO)-data
	$(RUN) finetune.py --base-model outputs/tiny-gemma2 --data-dir $(DEMO)-data --run-dir $(DEMO) --epochs 6 --learning-rate 3e-3
	$(RUN) evaluate.py --adapter $(DEMO) --data-dir $(DEMO)-data
	$(RUN) predict.py --adapter $(DEMO) --topic "Vegans are right." --text "It's all about finding a system that works for you."

run: $(VENV)/installed
	$(RUN) prepare_data.py
	$(RUN) finetune.py
	$(RUN) evaluate.py
	$(RUN) predict.py --topic "Vegans are right." --text "It's all about finding a system that works for you."
