"""What an edge or a node does to an objective: by gradients, or by one ablation each."""
