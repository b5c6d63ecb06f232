"""Parts that several papers' models share: blocks, convolutions, token maps, positions."""
