"""One file per paper; each registers its published variants."""
