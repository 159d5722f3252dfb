"""Sequences and labels: reading files, alphabets and tokenizers, batches. Knows nothing of models."""
