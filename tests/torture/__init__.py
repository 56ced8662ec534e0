"""Services under every fault that they have to survive, and the proof that they did."""
