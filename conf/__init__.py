"""The Hydra tree: each folder is a group of choices, each file one choice. `train.yaml` is the table of contents."""
