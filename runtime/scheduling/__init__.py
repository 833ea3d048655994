"""Continuous batching: queues utterances, assigns them to slots of lanes and decodes them together."""
