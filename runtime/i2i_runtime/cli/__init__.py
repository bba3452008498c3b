"""The commands of the runtime: i2i-stream, i2i-bench, i2i-doctor."""
