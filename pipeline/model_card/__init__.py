"""The model card, reports/model_card.md: what a detector was trained on, what it reaches and gets wrong, its limits.

The card is Markdown with the front matter of Hugging Face's model cards. The same inputs give the same bytes: it has no
dates and no paths of the machine. What is not known is left out.
"""
