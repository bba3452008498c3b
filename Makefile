# The handful of verbs, used by people and CI alike.
PYTHON ?= python3
# A bare `torch` would bring gigabytes of CUDA libraries; name another build with TORCH=...
TORCH ?= torch==2.13.0
# A clip, camera number or URI to translate instead of the rendered street scene.
INPUT ?= test://street
# TensorRT's Python bindings, without its libraries: what our calls are held against (skipped where there are none).
BINDINGS = tests/export/plan/trt_stub/wheels
TENSORRT_RELEASES = tensorrt-cu12-bindings==10.3.0 tensorrt-cu12-bindings==10.9.0.34 \
	tensorrt-cu13-bindings==10.16.1.11 tensorrt-cu13-bindings==11.4.0.106
GSTREAMER_TESTS = tests/runtime/net/test_gstreamer.py
# Processes that share the tests.
WORKERS ?= 2

.PHONY: demo test check docs bench gpu-proof jetson-proof clean

demo: .venv-demo/installed
	.venv-demo/bin/python runtime/demo.py --input "$(INPUT)"

test: .venv/installed
	tests/peers.sh
	# pytest-xdist 3.8 waits for ever at the end if a worker died and was replaced, so none is replaced.
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart 0 \
		--ignore $(GSTREAMER_TESTS) $(TESTS)
	# A process of its own: OpenVINO crashes in processes that have loaded Debian's GStreamer.
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest $(GSTREAMER_TESTS)

check: .venv/installed docs
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# The API pages, from the docstrings of what each package's `__all__` names. A warning is an error.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict -f .docs/mkdocs.yml

bench: .venv/installed
	.venv/bin/i2i-bench day2night

# Installs nothing: the machine with the GPU may reach no network. OUT=DIR takes the rows.
gpu-proof:
	PYTHONPATH=kernels:trainer:export:runtime $(or $(wildcard .venv/bin/python),$(PYTHON)) \
		export/benchmarks/gpu_proof.py --out $(or $(OUT),gpu-proof)

# On a board after runtime/jetson/install.sh; elsewhere it prints what it would do. OUT=DIR takes the rows.
jetson-proof:
	PYTHONPATH=runtime $(or $(wildcard .venv/bin/python),$(PYTHON)) runtime/jetson/proof.py --out $(or $(OUT),jetson-proof)

# The runtime alone: no torch, no triton, no onnx. What runs is compiled when it is first imported.
.venv-demo/installed: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install -q --disable-pip-version-check --no-compile -e .
	.venv-demo/bin/python -m i2i_runtime.opencv
	touch $@

# What training, export and the tests need as well.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	.venv/bin/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	.venv/bin/python -m i2i_runtime.opencv
	# The server's client pins an old protobuf; its schema alone is read here, and that works with a new one.
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps tritonclient==2.73.0 grpcio python-rapidjson
	for release in $(TENSORRT_RELEASES); do \
		.venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d $(BINDINGS) $$release \
		|| echo "tests that need $$release will skip"; \
	done
	tests/runtime/strict_driver/build_pycuda.sh .venv/bin/python || echo "tests that need PyCUDA will skip"
	touch $@

clean:
	rm -rf .venv .venv-demo dist demo.mp4 demo.png demo.json
