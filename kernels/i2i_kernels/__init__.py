"""GPU kernels for the normalisation family, pyramids and colour: tensors in, tensors out."""
