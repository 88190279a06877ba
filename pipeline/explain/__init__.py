"""What a detector learns from an image, made visible: which location learns which object, and what it says of each."""
