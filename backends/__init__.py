"""Code generators, one folder each: legal -> schedule -> emit -> runtime."""
