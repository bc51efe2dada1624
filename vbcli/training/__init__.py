"""Training: masking, batches, tasks and the loop."""
