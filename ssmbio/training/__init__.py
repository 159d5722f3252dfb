"""Training: parameter groups, schedules, measures, checkpoints, callbacks and the files of a run folder."""
