"""A minimal transformer, its positional encodings, generation and low-rank updates."""
