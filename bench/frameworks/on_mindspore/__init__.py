"""The jobs of MindSpore."""
