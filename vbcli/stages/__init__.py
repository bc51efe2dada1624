"""The stages: one file each. A stage turns the rows of one input shard into the rows of one output shard."""
