"""The built-in tasks, grouped by what decides the answer."""
