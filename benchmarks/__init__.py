"""What is measured against whom, and the dated cards of what came out."""
