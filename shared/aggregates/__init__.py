"""What happened to each kind of aggregate, and the state that it led to. Pure: no I/O, no clock."""
