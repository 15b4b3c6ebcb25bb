"""Search as clients see it: queries, suggestions, history, subscriptions."""
