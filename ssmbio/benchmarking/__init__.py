"""How fast the ops are here: what is timed, how, beside whom, against which limits, and the report of it."""
