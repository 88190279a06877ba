"""A race between our recipe and torchvision's FCOS."""
