"""The models: VideoBERT, BART, their one transformer block, and decoding."""
