"""What a service shows of itself to those who run it: metrics and traces."""
