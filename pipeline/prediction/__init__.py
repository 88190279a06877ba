"""`fcos predict`: images and video in, pictures, tables and annotation files out."""
