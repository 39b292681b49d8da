"""How launches are started, watched and survived, in the parent."""
