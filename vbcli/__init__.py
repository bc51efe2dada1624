"""vbcli: from a folder of videos to captions, with VideoBERT and BART."""

__version__ = "0.1.0"
