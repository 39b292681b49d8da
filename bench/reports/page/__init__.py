"""What the HTML page is made of: its table, its plots, its looks."""
