"""What frames, clips and images are made of; used by sources, sinks and verify, imports neither."""
