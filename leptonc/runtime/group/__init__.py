"""Worker groups: one process a rank, all running the same program on their shards.

``local`` starts them on this machine, ``torchrun`` uses the ranks of a job that exists, ``on_ray``
asks Ray for them. All have ``call``, ``restart``, ``close`` and ``pids``.
"""
