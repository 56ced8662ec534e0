"""What is personal: its fields, and how they are encrypted."""
