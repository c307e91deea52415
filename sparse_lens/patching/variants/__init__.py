"""Many circuits of one model on the same prompts at once, only the layers that differ."""
