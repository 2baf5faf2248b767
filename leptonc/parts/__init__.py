"""Parts of a model: split it, run the parts, share requests and batches out."""
