"""What is counted, as Prometheus' metrics."""
