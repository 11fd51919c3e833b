"""The loop that ranks run: tasks, strategies, optimization, callbacks."""
