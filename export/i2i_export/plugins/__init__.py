"""TensorRT plugins made of the Triton kernels."""
