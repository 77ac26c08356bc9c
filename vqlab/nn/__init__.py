"""Networks and other plain-torch parts, without Lightning."""
