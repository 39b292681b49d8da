"""Parts of models, as they compute here."""
