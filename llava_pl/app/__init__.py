"""Commands beside training, each a few modules: what it finds out, and `_terminal` or `_html` for how that is shown.

Families of commands have a folder each, and do not know each other: data, evaluation, talk, verify.
"""
