"""Probes that can be believed: hidden states, read-outs, controls, attention statistics and causal checks."""
