"""Language models: the families, their sizes, their work and their jobs."""
