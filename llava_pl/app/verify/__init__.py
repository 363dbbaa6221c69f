"""Proofs that a run's numbers do not depend on how it is spread."""
