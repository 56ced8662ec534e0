"""The relay: passes every event on to a task queue or broker, from where another service left off.

It is a process of its own, which follows a query service. What it passes on to is a *target*, one
module in `targets`; what it keeps is how far it has come, and what it could not pass on.
"""
