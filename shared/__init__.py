"""What both services need; it knows neither of them."""
