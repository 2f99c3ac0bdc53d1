"""Tokenizers, the data contract and streams of packed training windows."""
