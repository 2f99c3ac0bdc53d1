"""One short file per experiment: `python -m experiments.<name>`."""
