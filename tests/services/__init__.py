"""The services as real processes over real sockets."""
