"""The data and the two pre-trained parts of the demo: a small world of coloured shapes, made from a seed in a minute."""
