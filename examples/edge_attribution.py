"""Edge attribution patching on a HookedTransformer, here a small one with random weights.

python examples/edge_attribution.py
"""

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

import sparse_lens as sl
from sparse_lens.baselines import AttributionPatching


def main() -> None:
    config = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=16, d_head=8, n_heads=4, d_vocab=50, act_fn="gelu", seed=0
    )
    model = HookedTransformer(config)
    graph = sl.ComponentGraph.from_model(model)
    print(graph)

    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(50, (16, 10), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 4] = torch.randint(50, (16,), generator=generator)
    answers, distractors = torch.full((16,), 7), torch.full((16,), 8)
    prompts = sl.Prompts(clean, corrupted, answers, distractors)

    method = AttributionPatching(objective=sl.NegatedLogitDifference())
    discovery = method.discover(
        model, graph, sl.Task("mine", train=prompts), ablation=sl.InterchangeAblation()
    )
    ranked = sorted(discovery.scores.by_name().items(), key=lambda item: -abs(item[1]))
    for name, score in ranked[:5]:
        print(f"{name:>20}  {score:+.4f}")

    # How much of the logit difference do the edges with the highest scores keep?
    for n_edges in (0, 20, 60, graph.n_edges):
        circuit = discovery.at(n_edges=n_edges)
        logits = sl.run_circuit(model, circuit, prompts, ablation=sl.InterchangeAblation())
        difference = -sl.NegatedLogitDifference()(logits[:, -1], prompts).mean()
        print(f"{n_edges:>4} edges ({circuit.connected().n_edges} connected): {difference:+.4f}")


if __name__ == "__main__":
    main()
