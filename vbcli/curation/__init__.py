"""What is done with datasets beside the chain: measuring, filtering, importing, transcribing, handing on."""
