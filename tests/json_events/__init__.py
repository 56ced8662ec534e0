"""Events as JSON, and the files of them."""
