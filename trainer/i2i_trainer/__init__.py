"""Learns image-to-image translation: folders of pictures in, a run folder out."""
