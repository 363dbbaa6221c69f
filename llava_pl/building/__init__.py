"""The data sets that LLaVA's paper describes, made anew.

Captions become records of stage `align`; captions and boxes become instructions of stage `finetune`, which a teacher
writes that sees no picture.
"""
