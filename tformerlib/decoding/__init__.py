"""Writing with a model: search for the best sequence, and sampling."""
