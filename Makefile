# The handful of verbs, used by people and CI alike.
PYTHON ?= python3
# A bare `torch` would bring gigabytes of CUDA libraries; name another build with TORCH=...
TORCH ?= torch==2.13.0
# A clip, camera number or URI to translate instead of the rendered street scene.
INPUT ?= test://street
# Processes that share the tests.
WORKERS ?= 2

.PHONY: demo test check bench gpu-proof clean

demo: .venv-demo/installed
	.venv-demo/bin/python runtime/demo.py --input "$(INPUT)"

test: .venv/installed
	tests/peers.sh
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(WORKERS) --dist loadgroup $(TESTS)

check: .venv/installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/installed
	.venv/bin/i2i-bench day2night

gpu-proof: .venv/installed
	.venv/bin/python kernels/benchmarks/gpu_proof.py

# The runtime alone: no torch, no triton, no onnx.
.venv-demo/installed: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install -q --disable-pip-version-check -e .
	touch $@

# What training, export and the tests need as well.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	.venv/bin/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-demo dist demo.mp4 demo.png demo.json
