"""Find the circuit of a task in the embedded sparse model, and its loss with and without it.

python examples/find_a_circuit.py
"""

import torch

import sparse_lens as sl
from sparse_lens.evals import tasks

TASK = "single_double_quote"


def main() -> None:
    model = sl.load_sparse_gpt("py-sparse")
    task = tasks.build(TASK, model.tokenizer)
    graph = sl.ChannelGraph.from_model(model)
    ablation = sl.bind(model, graph, sl.MeanAblation())  # computes the means once

    discovery = sl.NodePruning(n_steps=100).discover(model, graph, task, ablation=ablation)
    circuit = discovery.circuit
    print(f"{task.name}: {circuit}, of which connected {circuit.connected()}")

    prompts = task.split("held_out")
    full = sl.Circuit.full(graph)
    for name, kept in (
        ("the model", full),
        ("the circuit", circuit),
        ("the model without it", full - circuit),
    ):
        with torch.no_grad():
            logits = sl.run_circuit(model, kept, prompts, ablation=ablation)
        rows = torch.arange(len(prompts))
        loss = sl.TaskLoss()(logits[rows, prompts.answer_positions], prompts).mean()
        print(f"{name:>20}: {loss:.3f} nats on held-out prompts")

    circuit.save(f"{TASK}.safetensors")


if __name__ == "__main__":
    main()
