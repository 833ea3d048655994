"""Models in memory: a leased pool with a breaker, the cache and the failover that are built on it."""
