"""What there is to say of several devices that do one step."""
