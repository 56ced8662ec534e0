"""Who may reach a service, who calls it, what that caller may do, and how much of it."""
