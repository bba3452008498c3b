"""TensorRT plans: candidate forms, the builder, and what a built plan contains."""
