"""What ranks communicate through: shared memory on one host, ``torch.distributed`` anywhere."""
