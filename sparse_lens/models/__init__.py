"""Weight-sparse GPTs as HookedTransformers: configuration, architecture, checkpoints, the zoo."""
