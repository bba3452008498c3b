"""A static page that runs engines in the visitor's browser: site.py writes it, ort_web.py finds ONNX Runtime Web."""
