"""Models of other libraries: their weights into vqlab's networks, and back."""
