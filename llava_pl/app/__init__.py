"""Commands beside training, each a few modules: what it finds out, and `_terminal` or `_html` for how that is shown.

Data: check, lens (stretches), ledger. Models: carry_commands. Runs: plan; verify_commands, with
invariance_splits, invariance_plan, invariance_runs, invariance.
"""
