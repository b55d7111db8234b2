# Two commands set everything up on a fresh machine: `make parity` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): setup.cfg pyproject.toml constraints.txt
	@echo "Making $(VENV) with all three frameworks: about 5 GB, and several minutes in which pip is silent."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[parity,jieba,pretrain,ray,dev]'
	@touch $@

env: $(READY)  ## make the environment (all three frameworks, about 5 GB) in .venv

parity: $(READY)  ## convert the fixture every way, run all three frameworks and transformers on it and say whether they agree
	$(BIN)/python -m roformer_convert.parity fixtures/tiny --golden fixtures/tiny.golden.npz --conversions first --with transformers

parity-peers: $(READY) peers  ## let all the software that serves it take part, from .peers
	$(BIN)/python -m roformer_convert.parity fixtures/tiny --with transformers --with transformers=.peers/transformers4 \
		--with transformers-tf=.peers/transformers4 --with paddlenlp=.peers/paddlenlp --with bert4keras=.peers/bert4keras \
		--with junnyu=.peers/junnyu --with onnx

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

coverage: $(READY)  ## run the tests and say which lines and branches none of them reaches (build/coverage/index.html)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-report=html:build/coverage

mutants: $(READY)  ## change the table, recognition, fitting and plan place by place: does a test fail? (SAMPLE=0 for all)
	$(BIN)/python tests/mutate.py converters/table/mapping.py tests/test_mapping_classes.py tests/test_mapping.py tests/test_plan.py \
		tests/test_misfits.py tests/test_inspection.py --sample $(or $(SAMPLE),60)
	$(BIN)/python tests/mutate.py converters/table/recognition.py tests/test_recognition.py --sample $(or $(SAMPLE),60)
	$(BIN)/python tests/mutate.py converters/source/fitting.py tests/test_misfits.py tests/test_fitting.py \
		tests/test_resized_embeddings.py --sample $(or $(SAMPLE),60)
	$(BIN)/python tests/mutate.py converters/source/problems.py tests/test_misfits.py tests/test_resized_embeddings.py \
		--sample $(or $(SAMPLE),60)
	$(BIN)/python tests/mutate.py converters/target/plan.py tests/test_plan.py --sample $(or $(SAMPLE),60)

fuzz: $(READY)  ## feed every reader with mutants for an hour (SECONDS=…), with another seed each time
	FUZZ_SECONDS=$(or $(SECONDS),3600) $(BIN)/python -m pytest tests/fuzz

kills: $(READY)  ## kill conversions at random moments, so many of each kind (KILLS=…): nothing or a whole result is left
	KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/test_interrupted.py -k killed

typing:  ## links that give type checkers the installed package names
	@rm -rf build/typing && mkdir -p build/typing/roformer_convert
	@ln -s $(CURDIR)/cli/* build/typing/roformer_convert/
	@for package in converters models parity training; do ln -s $(CURDIR)/$$package build/typing/roformer_convert/$$package; done

lint: $(READY) typing  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=build/typing:. $(BIN)/mypy -p roformer_convert -p audit
	MYPYPATH=build/typing:.:tests $(BIN)/mypy tests

check: lint test  ## lint and test

format: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fixtures: $(READY)  ## train the shipped fixture again (about an hour and a half on two cores)
	$(BIN)/python fixtures/make_random.py
	$(BIN)/python fixtures/make_tiny.py

bench-convert: $(READY)  ## conversion at base size beside cp and, where installed, the peers
	$(BIN)/python benchmarks/bench_convert.py

bench-inference: $(READY)  ## tokens a second of the three models beside, where installed, their peers
	$(BIN)/python benchmarks/bench_inference.py $(BENCH)

bench-gpu: $(READY)  ## on a GPU: whether the PyTorch model is right there, then how fast, beside transformers
	$(BIN)/python benchmarks/gpu.py $(BENCH)

bench-training: $(READY)  ## tokens a second of a training step beside the peers', data preparation, the loader
	$(BIN)/python benchmarks/bench_training.py $(BENCH)

audit-gpu: .peers/paddle-gpu/.ready typing  ## hold every operator that a GPU is asked for against Paddle 2.6.2's GPU kernels
	PYTHONPATH=build/typing .peers/paddle-gpu/bin/python -m audit $(if $(WRITE),--write)

bench-parity: $(READY)  ## time and memory of the gate at base size beside the bare models
	$(BIN)/python benchmarks/bench_parity.py

peers: $(addprefix .peers/,transformers4/.ready paddlenlp/.ready bert4keras/.ready junnyu/.ready)  ## environments of the software we compare with

peer-fixtures: $(READY) peers  ## let the software we compare with write fixtures/peers anew
	.peers/transformers4/bin/python fixtures/peers/make_transformers4.py
	$(BIN)/python fixtures/peers/make_transformers5.py
	.peers/junnyu/bin/python fixtures/peers/make_junnyu.py
	.peers/junnyu/bin/python fixtures/optimizers/make_junnyu.py
	.peers/paddlenlp/bin/python fixtures/peers/make_paddlenlp.py
	.peers/paddlenlp/bin/python fixtures/optimizers/make_paddlenlp.py
	.peers/bert4keras/bin/python fixtures/peers/make_bert4keras.py

.peers/%/.ready: benchmarks/peers/%.txt
	@echo "Making .peers/$*: some 2 GB, and minutes in which pip is silent."
	$(PYTHON) -m venv .peers/$*
	sed '/^--no-deps /d' $< > .peers/$*/requirements.txt
	.peers/$*/bin/pip install --quiet --disable-pip-version-check -r .peers/$*/requirements.txt
	for package in $$(sed -n 's/^--no-deps //p' $<); do .peers/$*/bin/pip install --quiet --no-deps $$package; done
	@touch $@

clean:  ## remove what was built (the environments stay)
	rm -rf build dist *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache

.PHONY: help env parity parity-peers test coverage mutants fuzz kills typing lint check format fixtures bench-convert bench-inference bench-gpu bench-training bench-parity audit-gpu peers peer-fixtures clean
