"""Backend: one torch program for every rank, readable, with explicit collectives."""
