"""numba_cpu > lower."""
LOWER = {}
def lower_norm_unit(ctx, body):
    return False
