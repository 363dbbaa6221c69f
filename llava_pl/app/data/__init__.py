"""Commands about data: what training sees of a record, a check of all, data that is built, proofs of what was seen."""
