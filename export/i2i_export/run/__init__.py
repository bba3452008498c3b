"""From a training run to an ONNX engine; the only room of export that imports torch."""
