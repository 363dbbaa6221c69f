"""A conversation with a model: in the terminal, on a page, for programs."""
