"""The tasks, by what decides the answer."""
