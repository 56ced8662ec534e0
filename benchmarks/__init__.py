"""What the services cost, measured beside the least that a call can cost."""
