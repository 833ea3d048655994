"""TensorRT engines: graphs, builds in their own process, the cache of plans, the compatibility report."""
