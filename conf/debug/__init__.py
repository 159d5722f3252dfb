"""Choices of one group of settings, a file each."""
