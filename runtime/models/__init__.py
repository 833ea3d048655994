"""Models in memory: a pool with leases, and the model cache and the failover that use it."""
