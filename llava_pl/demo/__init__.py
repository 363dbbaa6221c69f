"""The recipe of LLaVA in small: coloured shapes to look at, and the two parts that it starts from, made in a minute."""

import warnings

# In a notebook without ipywidgets: tqdm, which huggingface_hub imports, draws no bars here.
warnings.filterwarnings("ignore", message="IProgress not found")
