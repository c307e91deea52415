"""Find circuits in language models with TransformerLens, and compare the methods that find them."""
