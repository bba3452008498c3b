"""Learns image-to-image translation: folders of images in, a run folder out."""
