"""Tensors to loss: vision encoder, projector, splice, decoder, loss. No Lightning, no file paths, no JSON."""
