"""How good a circuit is: tasks, metrics, the comparison harness and its report."""
