"""Weight-sparse pretraining: data, projection, schedule, trainer, presets."""
