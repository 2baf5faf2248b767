"""The torch backend for several ranks: one program, run by each of them on its shards."""
