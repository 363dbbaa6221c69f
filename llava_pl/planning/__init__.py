"""What a run will need, known before it costs anything: memory, disk, work and time, from its configuration alone.

In reading order. What is given: spread (the strategy), weights (the model, and what its weights take), data_facts (the
samples), batches (a micro batch of them). Memory: memory_tape, dry_run (activations), optimizer_state, memory (of a
device and a host, from all these), memory_plan (by the size of the micro batch). Then contradictions; and planner,
which counts operations (`models/work.py`) and puts everything into a `RunPlan` (run_plan).
"""
