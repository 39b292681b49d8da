"""What is handed on: published runs, their digests and signatures."""
