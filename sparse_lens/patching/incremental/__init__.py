"""Many circuits that differ a little, run together: only what differs is computed.

ACDC (Conmy et al. 2304.14997) removes one edge after the other and asks each time what that does to
the logits at the answer position. That would take a forward pass for each of tens of thousands of
edges, and nearly all of it would repeat the pass before. So :class:`CircuitVariants` keeps one
circuit as it runs on some prompts, and runs **variants** of it, which keep fewer edges into readers
of one sublayer. Their logits are those of :func:`sparse_lens.patching.reference.run_circuit`.

1. **Once** (`frame`, `ablated_run`, `prefix`): take the model apart into layers without hooks,
   embed the prompts, and get what every writer carries when it is ablated. Leave out the first
   positions if the ablated run is given the same tokens there: every circuit does the same at them.
2. **The circuit** (`state`): of all writers keep `differences = ablated - live`, of all heads their
   queries, keys and values. What a reader sees is

       (stream with every edge cut)  -  kept @ differences

   which is the live stream plus `cut @ differences`, as in the masked pass (`component/mixing`),
   summed from the other end: most edges of these circuits are cut, and the stream with every edge
   cut never changes.
3. **What differs** (`pass_schedule`): nothing before the readers that lose edges. After them, a
   head or MLP that reads from another one that differs, and acts on the logits, both over kept
   edges (`sparse_lens.graphs.reachability.Acting`). Where it acts through the answer position
   alone, only that position is computed.
4. **A pass** (`variant_pass`) computes these for all variants in one batch. Of each writer it keeps
   the change of its output; a reader's stream changes by `kept @ changes`.
5. **Adopt** a variant: its changes are added to the circuit's outputs, and it is the circuit.

Heads that act on each other directly, through an AbsTopK or a norm over all of them, cannot be
computed one by one; such models are refused.
"""
