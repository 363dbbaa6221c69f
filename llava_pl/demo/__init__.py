"""The recipe of LLaVA in small: coloured shapes to look at, and the two parts that it starts from, made in a minute."""
