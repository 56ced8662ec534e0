"""What is personal: which fields are, how they are encrypted, and what that takes."""
