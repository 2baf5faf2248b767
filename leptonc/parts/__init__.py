"""Parts of a model: split it, run the parts in a row or pipelined, share requests and batches out."""
