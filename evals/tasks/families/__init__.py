"""The twelve tasks, by what decides the answer."""
